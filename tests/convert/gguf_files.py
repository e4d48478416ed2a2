"""GGUF files of tiny random models of every architecture."""

import gguf
import jax
import numpy as np

from llmjax.convert.families.registry import FAMILIES
from llmjax.convert.gguf.config import NAMES
from llmjax.convert.gguf.tensors import TABLES
from llmjax.convert.hf.mapping import BoundTable, lazy_tensors
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model

SIZES = {
    "vocab_size": 96,
    "context_length": 64,
    "embedding_length": 32,
    "block_count": 2,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
    "rope.dimension_count": 8,
}
WIDE = {"attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 16}
GEMMA = {
    **SIZES,
    "attention.key_length": 256,  # Transformers scales scores by this, whatever the file says
    "attention.value_length": 256,
    "rope.dimension_count": 256,
    "attention.sliding_window": 4,
}
LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
COHERE = {k: v for k, v in (SIZES | LAYER_NORM).items() if "rms" not in k} | {"logit_scale": 0.3}
KEYS = {
    "llama": {**SIZES, **WIDE},
    "smollm3": {**SIZES, "block_count": 4},
    "qwen2": SIZES,
    "qwen3": {**SIZES, **WIDE},
    "gemma": {**SIZES, **WIDE},
    "gemma2": {
        **GEMMA,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3": {**GEMMA, "block_count": 6, "rope.freq_base": 1e6},
    "granite": {
        **SIZES,
        "embedding_scale": 6.0,
        "residual_scale": 0.5,
        "attention.scale": 0.25,
        "logit_scale": 4.0,
    },
    "command-r": COHERE,
    "cohere2": {**COHERE, "block_count": 4, "attention.sliding_window": 5},
    "starcoder2": {k: v for k, v in (SIZES | LAYER_NORM).items() if "rms" not in k},
    "olmo2": SIZES,
    "phi3": {**SIZES, "attention.sliding_window": 32, "rope.scaling.original_context_length": 64},
    "gpt2": {k: v for k, v in (SIZES | LAYER_NORM).items() if "rope" not in k and "rms" not in k},
    "gptneox": {
        **{k: v for k, v in (SIZES | LAYER_NORM).items() if "rms" not in k},
        "rope.dimension_count": 4,
        "use_parallel_residual": True,
    },
}
for _name in ("gpt2", "gptneox"):
    del KEYS[_name]["attention.head_count_kv"]
KEYS["gpt2"] |= {"context_length": 1024, "feed_forward_length": 128}  # all that Transformers takes


def random_params(config: ModelConfig, seed: int = 0):
    """Random float32 arrays, large enough that every part affects the outputs."""
    generator = np.random.default_rng(seed)

    def leaf(path, shape):
        middle = float(path[-1].key == "scale" and not config.norm_unit_offset)
        return generator.normal(middle, 0.25, shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, Model(config).abstract_params())


def file_tensors(architecture, hf_config, config, params):
    """The tensors of a file, with its names and layouts."""
    family = FAMILIES[NAMES[architecture][0]]
    table = {rule.name: (name, rule) for name, rule in TABLES[architecture].items()}
    stored = {}
    for tensor in lazy_tensors(params, BoundTable(family.table, Model(config))):
        layer = next((word for word in tensor.name.split(".") if word.isdigit()), "")
        pattern = tensor.name.replace(f".{layer}.", ".{}.", 1) if layer else tensor.name
        name, rule = table[pattern]
        values = tensor.make()
        values = values.T if rule.transposed else values
        if rule.order is not None:
            values = values[np.argsort(rule.order(hf_config, len(values)))]
        stored[name.format(layer)] = np.ascontiguousarray(values - np.float32(rule.plus))
    return stored


def write(path, architecture, keys, tensors, kind="F32", more=None):
    """Write a file, with matrices stored as `kind`."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {
        **{f"{architecture}.{k}": v for k, v in keys.items()},
        **(more or {}),
    }.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, values in tensors.items():
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(name, values.astype(np.float32))
        else:
            quantised = gguf.GGMLQuantizationType[kind]
            stored = gguf.quants.quantize(values.astype(np.float32), quantised)
            writer.add_tensor(name, stored, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def model_of(architecture, tied=False, keys=None, extra=()):
    """A model of an architecture: Transformers config, ModelConfig and random parameters."""
    keys = keys or KEYS[architecture]
    size = {f"{architecture}.{k}": v for k, v in keys.items()}

    class Empty:
        path, metadata = "file", {"general.architecture": architecture, **size}
        tensors = dict.fromkeys(("output.weight",) * (not tied))
        rows = None

    from llmjax.convert.gguf.config import config_of
    from llmjax.convert.gguf.file import StoredTensor

    layers = range(keys["block_count"])
    Empty.tensors |= {f"blk.{i}.attn_norm.weight": StoredTensor((32,), 0, 0, 0) for i in layers}
    Empty.tensors |= {"token_embd.weight": StoredTensor((96, 32), 0, 0, 0)}
    if architecture in ("qwen2", "starcoder2"):
        Empty.tensors["blk.0.attn_q.bias"] = StoredTensor((32,), 0, 0, 0)
    if architecture == "command-r":
        Empty.tensors["blk.0.attn_q_norm.weight"] = StoredTensor((4, 8), 0, 0, 0)
    hf_config = config_of(Empty())
    family = FAMILIES[NAMES[architecture][0]]

    class Names:
        def names(self):
            heads = ("lm_head", "embed_out")
            rows = (row.tensor for row in family.table.rows)
            return [name for name in rows if not tied or name.split(".")[0] not in heads]

        def shape(self, name):
            return (hash(name),)

        def dtype(self, name):
            return np.dtype(np.float32)

    config = resolve(family.read_config(hf_config, Names()), 96)
    return hf_config, config, random_params(config)
