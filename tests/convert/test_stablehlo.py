"""Exported programs compute what the model computes, with only jax and numpy installed."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llmjax
from llmjax.convert.exporting import export
from llmjax.convert.stablehlo.writing import loader
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.moe_config import MoEConfig
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run
from llmjax.storage.writing import write_atomically
from untrained import make_run, save

TINY = {"d_model": 16, "num_heads": 4, "max_length": 32, "vocab_size": 384}
DECODERS = {
    "llama": ModelConfig(**TINY, num_decoder_layers=2, num_kv_heads=2, tie_embeddings=False),
    "gpt2": ModelConfig(
        **TINY,
        num_decoder_layers=2,
        gated=False,
        norm="layernorm",
        norm_bias=True,
        positions="learned",
        qkv_bias=True,
        mlp_bias=True,
    ),
    "gemma": ModelConfig(
        **TINY,
        num_decoder_layers=3,
        num_kv_heads=1,
        norm_placement="sandwich",
        norm_unit_offset=True,
        window=3,
        global_layers=(2,),
        attention_softcap=5.0,
        logit_softcap=3.0,
        qk_norm=True,
    ),
    "chunks": ModelConfig(
        **TINY,
        num_decoder_layers=2,
        window=5,
        window_chunks=True,
        global_layers=(1,),
        unrotated_layers=(1,),
        qk_norm=True,
        qk_norm_over="rotated",
        query_growth=0.5,
        query_growth_length=4,
    ),
    "experts": ModelConfig(
        **TINY, num_decoder_layers=2, moe=MoEConfig(4, 2, 24, dense_layers=(0,), shared_width=16)
    ),
    "bfloat16": ModelConfig(**TINY, num_decoder_layers=2),
}
BERT = ModelConfig(
    **TINY,
    num_encoder_layers=2,
    num_decoder_layers=0,
    norm_placement="post",
    positions="learned",
    token_types=2,
    embed_norm=True,
)
T5 = ModelConfig(
    **TINY, num_encoder_layers=2, num_decoder_layers=2, positions="relative", gated=False
)
ALONE = """
import runpy
import sys
from importlib.machinery import PathFinder

ALLOWED = {"jax", "jaxlib", "numpy", "ml_dtypes", "scipy", "opt_einsum"} | sys.stdlib_module_names

class OnlyJax:
    '''Finds only modules of Python and JAX.'''

    def find_spec(self, name, path=None, target=None):
        if name == "flatbuffers":  # not the one that is installed
            return PathFinder.find_spec(name, [p for p in sys.path if "site-packages" not in p])
        allowed = name.startswith(("flatbuffers.", "_sysconfigdata"))
        allowed = allowed or name.split(".")[0] in ALLOWED
        return PathFinder.find_spec(name, path) if allowed else None

sys.meta_path = [*sys.meta_path[:2], OnlyJax()]
runpy.run_path("load.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Model config -> a run folder with random parameters."""
    base = make_run(tmp_path_factory.mktemp("base"), steps=())

    def make(model, dtype="float32"):
        folder = tmp_path_factory.mktemp("run")
        config = replace(
            base.config(),
            run_dir=str(folder / "run"),
            model=model,
            compute=ComputeConfig(dtype=dtype),
        )
        run = Run.create(replace(config, data=replace(config.data, length=16)))
        write_atomically(run.config_path, to_json(config))
        BytesTokenizer().save(run.tokenizer)
        save(run, config, (5,))
        return run.folder

    return make


@pytest.fixture(scope="module")
def llama(run_of):
    return run_of(DECODERS["llama"])


def check_greedy(lm, prompts, continuations, new):
    """Check against a full forward pass that each id is the most likely next one."""
    rows = [[*p, *c] for p, c in zip(prompts, continuations, strict=True)]
    width = max(map(len, rows))
    padded = [row + [0] * (width - len(row)) for row in rows]
    best = np.asarray(lm.logits(padded)).argmax(-1)
    for prompt, ids, row in zip(prompts, continuations, best.tolist(), strict=True):
        expected = row[len(prompt) - 1 :][:new]
        expected = until(expected, lm.tokenizer.eos_id)
        assert ids == expected[: len(ids)]
        assert len(ids) == new or row[len(prompt) - 1 + len(ids)] == lm.tokenizer.eos_id


def until(ids, end):
    return ids[: ids.index(end)] if end in ids else ids


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_continue_as_the_model_does(run_of, tmp_path, name):
    run = run_of(DECODERS[name], "bfloat16" if name == "bfloat16" else "float32")
    exported = loader(export(run, tmp_path / "out", to="stablehlo")).Exported(tmp_path / "out")
    lm = llmjax.load(run)
    prompts = [[5], [65, 66, 67, 68, 69], [7, 8]]
    continuations = exported.generate(prompts, 6)
    if name == "bfloat16":  # near ties may differ; the export compares logits
        assert len(continuations) == 3
    else:
        check_greedy(lm, prompts, continuations, 6)


def test_encoders_and_encoder_decoders_agree_with_the_model(run_of, tmp_path):
    bert, t5 = run_of(BERT), run_of(T5)
    tokens = np.arange(10, dtype=np.int32).reshape(2, 5)
    segments = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    types = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]], np.int32)
    exported = loader(export(bert, tmp_path / "bert", to="stablehlo")).Exported(tmp_path / "bert")
    inputs = {"tokens": tokens, "segments": segments, "token_types": types}
    out, _ = exported.run("hidden", {}, **inputs)
    lm = llmjax.load(bert)
    expected = jax.jit(lm.model.hidden)(lm.params, **jax.tree.map(jnp.asarray, inputs))
    np.testing.assert_allclose(out["hidden"], expected, atol=1e-4)

    exported = loader(export(t5, tmp_path / "t5", to="stablehlo")).Exported(tmp_path / "t5")
    lm, prompt = llmjax.load(t5), [3, 4, 5]
    ids = exported.generate([prompt], 5)[0]
    best = np.asarray(lm.logits([prompt], [[*ids, 0]]))[0].argmax(-1).tolist()
    assert ids == best[: len(ids)]
    assert len(ids) == 5 or best[-1] == lm.tokenizer.eos_id


def test_runs_where_only_jax_and_numpy_are(llama, tmp_path):
    out = export(llama, tmp_path / "out", platforms=["cpu"], to="stablehlo")
    lm = llmjax.load(llama)
    words = [sys.executable, "-c", ALONE, "72", "101", "--new", "5"]
    done = subprocess.run(words, cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ids = [int(word) for word in done.stdout.split()]
    check_greedy(lm, [[72, 101]], [ids], 5)


def test_manifest_and_weights_say_what_is_there(llama, tmp_path):
    out = export(
        llama, tmp_path / "out", platforms=["cpu", "tpu"], dtype="bfloat16", to="stablehlo"
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["platforms"] == ["cpu", "tpu"]
    assert set(manifest["programs"]) == {"prefill", "decode"}
    assert manifest["programs"]["decode"]["inputs"]["tokens"]["shape"] == ["b", 1]
    weights = loader(out).read_weights(out / manifest["weights"])
    lm = llmjax.load(llama, dtype="bfloat16")
    assert {n: list(w.shape) for n, w in weights.items()} == {
        n: array["shape"] for n, array in manifest["weight_shapes"].items()
    }
    np.testing.assert_array_equal(weights["embedding.rows"], lm.params["embedding"]["rows"])
    assert weights["decoder.layers.1.mlp.up.kernel"].dtype == jnp.bfloat16
    assert load_tokenizer(out / manifest["tokenizer"]).vocab_size == 264


def test_refuses_and_leaves_nothing(llama, tmp_path):
    with pytest.raises(UserError, match="rocm"):
        export(llama, tmp_path / "out", platforms=["rocm"], to="stablehlo")
    with pytest.raises(UserError, match="no such run"):
        export(tmp_path / "nowhere", tmp_path / "out", to="stablehlo")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists"):
        export(llama, tmp_path / "out", to="stablehlo")


def test_a_jax_without_the_cpu_is_refused(llama, tmp_path, monkeypatch):
    """As with JAX_PLATFORMS=cuda."""
    local_devices = jax.local_devices

    def none(*args, backend=None, **rest):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return local_devices(*args, backend=backend, **rest)

    monkeypatch.setattr(jax, "local_devices", none)
    with pytest.raises(UserError, match="excludes the CPU"):
        export(llama, tmp_path / "out", to="stablehlo")
    assert not (tmp_path / "out").exists()
