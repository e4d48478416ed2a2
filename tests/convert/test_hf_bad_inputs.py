"""Bad inputs are refused in one line that names the problem, and leave nothing behind."""

import json
import shutil

import hf_models
import numpy as np
import pytest

from llmjax.convert.exporting import export
from llmjax.convert.hf.safetensors import (
    INDEX,
    SINGLE,
    TensorFiles,
    open_folder,
    read_header,
    write_file,
    write_folder,
)
from llmjax.convert.importing import import_model
from llmjax.convert.tensors import LazyTensor
from llmjax.errors import UserError

D, V, LAYERS = 8, hf_models.VOCABULARY, 2
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": 12,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
SHAPES = {
    "model.embed_tokens.weight": (V, D),
    "model.norm.weight": (D,),
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(LAYERS)
        for name, shape in {
            "input_layernorm": (D,),
            "post_attention_layernorm": (D,),
            "self_attn.q_proj": (D, D),
            "self_attn.k_proj": (D, D),
            "self_attn.v_proj": (D, D),
            "self_attn.o_proj": (D, D),
            "mlp.gate_proj": (12, D),
            "mlp.up_proj": (12, D),
            "mlp.down_proj": (D, 12),
        }.items()
    },
}
NORM = "model.layers.1.input_layernorm.weight"


def planned(name, shape, dtype=np.float32):
    """A tensor with values drawn from its name."""
    rng = np.random.default_rng(len(name) + sum(map(ord, name)))
    values = (rng.normal(size=shape) * 0.3).astype(dtype)
    return LazyTensor(name, tuple(shape), np.dtype(dtype), lambda: values)


def tensors(**shapes):
    return [planned(name, shape) for name, shape in (SHAPES | shapes).items()]


@pytest.fixture
def folder(tmp_path):
    """A model that can be imported."""
    source = tmp_path / "there"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(CONFIG))
    write_folder(source, tensors())
    hf_models.write_tokenizer(source)
    return source


def refused(folder, *words):
    """Check that importing fails with all these words in one line, and leaves nothing behind."""
    with pytest.raises(UserError) as caught:
        import_model(folder, folder.parent / "run")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["there"]
    for word in words:
        assert word in str(caught.value)


def test_the_model_itself_can_be_imported(folder, tmp_path):
    import_model(folder, tmp_path / "run")
    with pytest.raises(UserError, match="already exists"):
        import_model(folder, tmp_path / "run")


def test_truncated_file(folder):
    path = folder / SINGLE
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, SINGLE, "truncated")


def test_no_header(folder):
    (folder / SINGLE).write_bytes(b"\xff" * 100)
    refused(folder, SINGLE, "truncated or not a safetensors file")


def test_header_that_is_no_json(folder):
    (folder / SINGLE).write_bytes((8).to_bytes(8, "little") + b"{[}{[}{[")
    refused(folder, SINGLE, "not JSON")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "8 bytes, but shape [3]"),
        ({"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, "not numbers"),
        ({"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}, "truncated"),
        ({"dtype": "Q4", "shape": [2], "data_offsets": [0, 8]}, "Q4"),
        ({"dtype": "F32", "shape": [2]}, "locate tensor x"),
    ],
)
def test_sizes_that_cannot_be(folder, entry, words):
    text = json.dumps({"x": entry}).encode()
    (folder / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    refused(folder, words)


def test_tensor_twice(folder):
    entry = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    text = f'{{"x":{entry},"x":{entry}}}'.encode()
    (folder / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    refused(folder, "'x' appears twice")


def test_tensor_missing(folder):
    write_folder(folder, [tensor for tensor in tensors() if tensor.name != NORM])
    refused(folder, NORM, "missing")


def test_tensor_extra(folder):
    write_folder(folder, tensors(**{"model.layers.2.input_layernorm.weight": (D,)}))
    refused(folder, "model.layers.2.input_layernorm.weight", "not part of")


def test_tensor_of_another_shape(folder):
    write_folder(folder, tensors(**{NORM: (D + 1,)}))
    refused(folder, NORM, f"[{D + 1}]", f"[{D}]")


def test_tensor_of_another_kind(folder):
    rest = [tensor for tensor in tensors() if tensor.name != NORM]
    write_folder(folder, [*rest, planned(NORM, (D,), np.int8)])
    refused(folder, NORM, "int8")


def test_head_that_is_not_the_embedding_it_is_tied_to_counts(folder, tmp_path):
    write_folder(folder, tensors(**{"lm_head.weight": (V, D)}))
    import_model(folder, tmp_path / "run")
    assert '"tie_embeddings": false' in (tmp_path / "run" / "config.json").read_text()


def shards(folder):
    """Splits the model in files, and returns its index."""
    (folder / SINGLE).unlink()
    write_folder(folder, tensors(), max_shard_bytes=2000)
    return json.loads((folder / INDEX).read_text())


def test_many_files_are_as_one(folder, tmp_path):
    before = open_folder(folder)
    expected = {name: before.read(name) for name in before.names()}
    index = shards(folder)
    assert len(set(index["weight_map"].values())) > 3
    after = open_folder(folder)
    assert all(np.array_equal(expected[name], after.read(name)) for name in expected)
    import_model(folder, tmp_path / "run")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b", "..\\x", "", 3])
def test_file_names_that_climb_out(folder, name):
    index = shards(folder)
    index["weight_map"][NORM] = name
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, "not in its own folder")


def test_shard_missing(folder):
    index = shards(folder)
    lost = index["weight_map"][NORM]
    (folder / lost).unlink()
    refused(folder, lost, "missing")


def test_tensor_in_two_shards(folder):
    index = shards(folder)
    write_file(folder / "more.safetensors", [planned(NORM, (D,))])
    index["weight_map"]["other"] = "more.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, NORM, "both in")


def test_pickles_are_never_read(folder):
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "pickle")


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(folder, "config.json")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "mamba"}, ["'mamba'", "gpt2", "llama", "t5"]),
        ({"model_type": None}, ["not supported"]),
        ({"wild_new_scaling": 2.0}, ["wild_new_scaling", "2.0"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ({"hidden_act": "mish"}, ["hidden_act", "mish"]),
        ({"hidden_size": "8"}, ["hidden_size", "int"]),
        ({"num_attention_heads": None}, ["has no num_attention_heads"]),
        ({"num_attention_heads": 3}, ["3 heads"]),
        ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, ["spiral"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "spin": 1}}, ["rope_scaling", "spin"]),
        ({"vocab_size": 100}, ["vocab_size 100"]),
    ],
)
def test_configs_that_cannot_be_honoured(folder, fields, words):
    (folder / "config.json").write_text(json.dumps(CONFIG | fields))
    refused(folder, *words)


def test_fields_that_change_nothing_are_let_through(folder, tmp_path):
    ignored = {
        "use_cache": False,
        "my_note": None,
        "hidden_dropout": 0.3,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(CONFIG | ignored))
    import_model(folder, tmp_path / "run")


def test_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": ')
    refused(folder, "tokenizer.json")


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("sample:nothing", ["no such sample", "minilm"]),
        ("/no/such/folder", ["no such file or folder"]),
        ("nobody/nothing-at-all", ["hub"]),
        ("model.gguf", ["no such file"]),
        ("a b", ["no such file"]),
    ],
)
def test_sources_that_are_not_there(tmp_path, source, words):
    with pytest.raises(UserError) as caught:
        import_model(source, tmp_path / "run")
    assert all(word in str(caught.value) for word in words)
    assert not list(tmp_path.iterdir())


def test_sentence_parts_that_are_not_supported(folder):
    modules = [
        {"type": f"sentence_transformers.models.{k}", "path": k} for k in ("Pooling", "Dense")
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, "Dense")


def test_export_refuses_and_leaves_nothing(folder, tmp_path):
    run = import_model(folder, tmp_path / "run")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        export(run, tmp_path / "out")
    with pytest.raises(UserError, match="dtype"):
        export(run, tmp_path / "out2", dtype="int3")
    with pytest.raises(UserError, match="format onnx: does not exist"):
        export(run, tmp_path / "out2", to="onnx")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="checkpoint"):
        export(run, tmp_path / "out2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run", "there"]


def test_parts_are_read_from_files(folder):
    files = TensorFiles(read_header(folder / SINGLE))
    full = files.read("model.embed_tokens.weight")
    part = files.read("model.embed_tokens.weight", (slice(5, 9), slice(2, 4)))
    assert np.array_equal(part, full[5:9, 2:4])
    assert not np.shares_memory(part, full)


def test_numbers_beyond_float16_are_not_made_infinite(folder, tmp_path):
    rest = [tensor for tensor in tensors() if tensor.name != NORM]
    large = np.full(D, 1e6, np.float32)
    write_folder(folder, [*rest, LazyTensor(NORM, (D,), large.dtype, lambda: large)])
    with pytest.raises(UserError, match="overflows float16"):
        import_model(folder, tmp_path / "run", dtype="float16")
    run = import_model(folder, tmp_path / "run")
    with pytest.raises(UserError, match="overflows float16"):
        export(run, tmp_path / "out", dtype="float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there"]
