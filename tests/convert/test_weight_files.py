"""Of several weight files in a folder, llmjax reads those that Transformers loads."""

import json

import numpy as np
import pytest

from llmjax.convert.hf.safetensors import INDEX, NAMED, SINGLE, open_folder, write_file
from llmjax.convert.sources import open_source
from llmjax.convert.tensors import LazyTensor
from llmjax.errors import UserError

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 4,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
LAYER = "model.layers.0"
EMBEDDING = "model.embed_tokens.weight"
SHAPES = {
    EMBEDDING: (4, 4),
    "model.norm.weight": (4,),
    f"{LAYER}.input_layernorm.weight": (4,),
    f"{LAYER}.post_attention_layernorm.weight": (4,),
    **{f"{LAYER}.self_attn.{part}_proj.weight": (4, 4) for part in "qkvo"},
    **{f"{LAYER}.mlp.{part}_proj.weight": (4, 4) for part in ("gate", "up", "down")},
}


def weights(path, number, names=tuple(SHAPES)):
    """Write a file of tensors filled with a number."""

    def constant(name):
        shape = SHAPES[name]
        return LazyTensor(name, shape, np.dtype("f4"), lambda: np.full(shape, number, "f4"))

    write_file(path, [constant(name) for name in names])


def single(folder):
    weights(folder / SINGLE, 1)


def shards(folder, number=2, index=INDEX, stem="model"):
    names = list(SHAPES)
    parts = {f"{stem}-00001-of-00002.safetensors": names[:5]}
    parts[f"{stem}-00002-of-00002.safetensors"] = names[5:]
    for name, tensors in parts.items():
        weights(folder / name, number, tensors)
    weight_map = {tensor: name for name, tensors in parts.items() for tensor in tensors}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def stale_index(folder):
    """Write an index of missing shards."""
    shards(folder)
    for path in folder.glob("model-*"):
        path.unlink()


def lost_shard(folder):
    shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def without_index(folder):
    shards(folder)
    (folder / INDEX).unlink()


def unrelated(folder):
    """Files that are not the model's weights."""
    weights(folder / "adapter_model.safetensors", 7)
    weights(folder / "consolidated.safetensors", 8)
    weights(folder / "model.fp16.safetensors", 9)
    (folder / "original").mkdir()
    weights(folder / "original" / SINGLE, 10)


def pickle(folder):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")


def named(file):
    def write(folder):
        weights(folder / "named.safetensors", 5)
        (folder / "config.json").write_text(json.dumps(CONFIG | {NAMED: file}))

    return write


def named_index(folder):
    shards(folder, 6, "other.safetensors.index.json", "other")
    (folder / "config.json").write_text(
        json.dumps(CONFIG | {NAMED: "other.safetensors.index.json"})
    )


def unrelated_names(folder):
    weights(folder / "model.fp16.safetensors", 9)


def fp16_shards(folder):
    shards(folder, 9, "model.safetensors.index.fp16.json", "model.fp16")


def as_folder(folder):
    (folder / SINGLE).mkdir()


REFUSED = None
MIXTURES = {
    "one file": ([single], 1),
    "shards": ([shards], 2),
    "one file and shards": ([single, shards], 1),
    "one file and a stale index": ([single, stale_index], 1),
    "one file and some shards": ([single, lost_shard], 1),
    "one file and shards without index": ([single, without_index], 1),
    "one file and others": ([single, unrelated], 1),
    "shards and others": ([shards, unrelated], 2),
    "one file and a pickle": ([single, pickle], 1),
    "shards and a pickle": ([shards, pickle], 2),
    "a folder of that name and shards": ([as_folder, shards], 2),
    "another name in config.json": ([single, named("named.safetensors")], 5),
    "another index in config.json": ([single, shards, named_index], 6),
    "lost name in config.json": ([single, named("lost.safetensors")], REFUSED),
    "a name outside": ([single, named("../x.safetensors")], REFUSED),
    "some shards": ([lost_shard], REFUSED),
    "stale index": ([stale_index], REFUSED),
    "shards without index": ([without_index], REFUSED),
    "others alone": ([unrelated], REFUSED),
    "a variant alone": ([unrelated_names], REFUSED),
    "shards of a variant": ([fp16_shards], REFUSED),
    "nothing": ([], REFUSED),
    "a folder of that name": ([as_folder], REFUSED),
}
"""Name -> (contents of a folder, value of the weights that Transformers 5.24 loads from it)."""


@pytest.fixture(params=MIXTURES)
def mixture(request, tmp_path):
    """A folder, and the value of the weights that Transformers loads."""
    steps, expected = MIXTURES[request.param]
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for step in steps:
        step(folder)
    return folder, expected


def test_the_weights_are_those_that_transformers_loads(mixture):
    folder, expected = mixture
    named_file = json.loads((folder / "config.json").read_text()).get(NAMED)
    if expected is REFUSED:
        with pytest.raises(UserError):
            open_folder(folder, named_file)
    else:
        files = open_folder(folder, named_file)
        assert sorted(files.names()) == sorted(SHAPES)
        assert {float(files.read(name).ravel()[0]) for name in SHAPES} == {expected}


def test_transformers_does_so(mixture):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder, expected = mixture
    load = transformers.LlamaForCausalLM.from_pretrained
    if expected is REFUSED:
        with pytest.raises((OSError, ValueError)):
            load(folder)
    else:
        assert float(load(folder).model.embed_tokens.weight.detach()[0, 0]) == expected


def test_a_pickle_alone_is_refused(tmp_path):
    pickle(tmp_path)
    with pytest.raises(UserError, match="pickle"):
        open_folder(tmp_path)


def test_adapters_beside_a_model_are_left_out_and_said_so(tmp_path, caplog):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="adapters alone"):
        open_source(str(tmp_path))
    single(tmp_path)
    unrelated(tmp_path)
    assert open_source(str(tmp_path)).tensors.read(EMBEDDING)[0, 0] == 1
    assert "adapter_config.json" in caplog.text
    assert "--base" in caplog.text
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="adapters alone"):
        open_source(str(tmp_path))
