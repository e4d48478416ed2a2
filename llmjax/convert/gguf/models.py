"""What a GGUF file says of a model, and whether that is all of it."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.families.family import Family, canonical
from llmjax.convert.families.registry import FAMILIES
from llmjax.convert.gguf.expert_keys import expert_keys
from llmjax.convert.gguf.file import GgufFile, StoredTensor
from llmjax.convert.gguf.metadata import llama3_divisors, rope_keys
from llmjax.convert.gguf.reading import gguf_of
from llmjax.convert.gguf.tensors import TABLES, TensorRule, gguf_table
from llmjax.convert.hf.mapping import BoundTable, lazy_tensors
from llmjax.convert.tensors import LazyTensor
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.model.rope import Llama3Scaling

ARCHITECTURES = {
    "llama": "llama",
    "qwen3": "qwen3",
    "qwen2": "qwen2",
    "granite": "granite",
    "starcoder2": "starcoder2",
    "cohere": "command-r",
    "cohere2": "cohere2",
    "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
    "qwen2_moe": "qwen2moe",
    "olmoe": "olmoe",
    "granitemoe": "granitemoe",
    "glm4_moe": "glm4moe",
    "gpt_oss": "gpt-oss",
    "llama4_text": "llama4",
    "deepseek_v3": "deepseek2",
    "deepseek_v2": "deepseek2",
}
"""Transformers' model_type -> architecture of GGUF, in the order in which to try them."""
WITH_EXPERTS = tuple(ARCHITECTURES)[7:]
WITH_WINDOWS = ("gpt_oss", "llama4_text", "cohere2")
"""Models whose windows llama.cpp has."""
WITHOUT_BIAS = (
    *("qwen3", "cohere", "cohere2", "qwen3_moe", "olmoe", "granitemoe", "llama4_text"),
    *("deepseek_v2", "deepseek_v3"),
)
"""Models whose biases of attention llama.cpp leaves out."""
NORMED = 64
"""Layers from which llama.cpp takes a model for Command R+, with norms of queries and keys."""
LITE_LAYERS = (26, 27)
"""Numbers of layers by which llama.cpp knows that queries are not compressed (DeepSeek-V2-Lite)."""
SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "vocab_size": "vocab_size",
}
"""Key of the architecture -> field of config.json."""


def choose_family(shape: ModelConfig) -> Family:
    """The first of ARCHITECTURES with which llama.cpp computes the model exactly.

    Raises:
      UserError: there is none; names the unsupported fields.
    """
    fix = "export it --to hf or --to stablehlo"
    if shape.num_encoder_layers:
        raise UserError("model", "has an encoder, and a GGUF file is of a decoder", fix)
    unsupported: dict[str, list[str]] = {}
    for name in ARCHITECTURES:
        unsupported[name] = _unsupported(FAMILIES[name], shape)
        if not unsupported[name]:
            return FAMILIES[name]
    closest = min(unsupported, key=lambda name: len(unsupported[name]))
    raise UserError(
        "model",
        f"llama.cpp's {closest} does not support {', '.join(unsupported[closest])}",
        fix,
    )


def _unsupported(family: Family, shape: ModelConfig) -> list[str]:
    """The fields that the family, or a GGUF file of it, cannot express."""
    found = family.unsupported(shape)
    windows = family.model_type in WITH_WINDOWS
    if shape.window is not None and not windows and "window" not in found:
        found.append("window")
    if (shape.moe is None) == (family.model_type in WITH_EXPERTS) and "moe" not in found:
        found.append("moe")
    if family.model_type in WITHOUT_BIAS and shape.qkv_bias and "qkv_bias" not in found:
        found.append("qkv_bias")
    if family.model_type == "qwen2" and shape.head_width * shape.num_heads != shape.d_model:
        found.append("head_dim")
    if family.model_type not in ("deepseek_v2", "deepseek_v3", "glm4_moe", "llama4_text"):
        found += ["moe.dense_layers"] if shape.moe is not None and shape.moe.dense_layers else []
    if shape.mla is not None and shape.mla.query_rank is None:
        found += [] if shape.num_decoder_layers in LITE_LAYERS else ["mla.query_rank"]
    if family.model_type == "starcoder2" and not shape.qkv_bias:
        found.append("qkv_bias")
    if family.model_type in ("cohere", "cohere2") and not shape.tie_embeddings:
        found.append("tie_embeddings")
    if family.model_type == "cohere" and shape.qk_norm != (shape.num_decoder_layers >= NORMED):
        found.append("qk_norm")
    if family.model_type == "olmoe" and shape.kv_heads != shape.num_heads:
        found.append("num_kv_heads")
    if rope_keys(shape) is None:
        found.append("rope_scaling")
    if shape.mla is not None and shape.mla.norm_epsilon != shape.norm_epsilon:
        found.append("mla.norm_epsilon")
    if shape.moe is not None and shape.moe.groups > 1 and shape.moe.group_score != "top2":
        found.append("moe.group_score")
    return found or _lost(family, shape)


def _lost(family: Family, shape: ModelConfig) -> list[str]:
    """The fields that do not come back from a file's keys and names of tensors."""
    bound = BoundTable(gguf_table(family), Model(shape))
    rules = _rules(family)
    tensors = {}
    for name, size in bound.expected().items():
        stored_name, _ = _stored(name, rules)
        tensors[stored_name] = StoredTensor(size, 0, 0, 0)
    architecture = ARCHITECTURES[family.model_type]
    keys = model_keys(family, shape) | {"general.architecture": architecture}
    try:
        read = canonical(gguf_of(GgufFile(Path("GGUF"), keys, tensors)).read_config())
    except UserError as error:
        return [str(error)]
    expected = canonical(shape)
    ignored = "rope_scaling" if isinstance(shape.rope_scaling, Llama3Scaling) else ""
    names = (field.name for field in fields(ModelConfig) if field.name != ignored)
    return [name for name in names if getattr(expected, name) != getattr(read, name)]


def _rules(family: Family) -> dict[str, tuple[str, TensorRule]]:
    """Name of a tensor outside -> its name in a file, and its rule; `{}` stands for the layer."""
    table = TABLES[ARCHITECTURES[family.model_type]]
    return {rule.name: (name, rule) for name, rule in table.items()}


def _stored(name: str, rules: dict[str, tuple[str, TensorRule]]) -> tuple[str, TensorRule]:
    """The name of a tensor in a file, and its rule."""
    layer = next((part for part in name.split(".") if part.isdigit()), "")
    pattern = name.replace(f".{layer}.", ".{}.", 1) if layer else name
    stored_name, rule = rules[pattern]
    return stored_name.format(layer), rule


def gguf_tensors(family: Family, shape: ModelConfig, params: Params) -> Iterator[LazyTensor]:
    """The tensors to write, with GGUF's names and layouts."""
    rules, config = _rules(family), family.write_config(shape)
    for tensor in lazy_tensors(params, BoundTable(gguf_table(family), Model(shape))):
        name, rule = _stored(tensor.name, rules)
        size = tensor.shape[1:] if rule.as_vector else tensor.shape
        yield LazyTensor(name, size, tensor.dtype, _arranged(tensor, rule, config))
    scaling = shape.rope_scaling
    if isinstance(scaling, Llama3Scaling):
        divisors = llama3_divisors(scaling, shape)
        yield LazyTensor("rope_freqs.weight", divisors.shape, divisors.dtype, lambda: divisors)


def _arranged(
    tensor: LazyTensor, rule: TensorRule, config: dict[str, Any]
) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        values = tensor.make()
        if rule.as_vector:
            return values[0]
        return values if rule.order is None else values[np.argsort(rule.order(config, len(values)))]

    return make


def model_keys(family: Family, shape: ModelConfig) -> dict[str, Any]:
    """The architecture's metadata."""
    config, architecture = family.write_config(shape), ARCHITECTURES[family.model_type]
    rms = "rms_" if shape.norm == "rmsnorm" else ""
    values = {key: int(config[field]) for key, field in SIZES.items()} | {
        f"attention.layer_norm_{rms}epsilon": float(shape.norm_epsilon),
        "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
        "rope.dimension_count": shape.rotated_width,
        "rope.freq_base": float(shape.rope_theta),
        **(rope_keys(shape) or {}),
        **expert_keys(architecture, shape),
    }
    if architecture in ("command-r", "cohere2"):
        values["logit_scale"] = float(shape.logit_scale)
    if architecture in ("granite", "granitemoe"):
        values |= {
            "embedding_scale": float(config["embedding_multiplier"]),
            "residual_scale": float(config["residual_multiplier"]),
            "attention.scale": float(config["attention_multiplier"]),
            "logit_scale": float(config["logits_scaling"]),
        }
    if architecture == "llama4":
        values["feed_forward_length"] = shape.mlp_width
        values["interleave_moe_layer_step"] = int(config["interleave_moe_layer_step"])
        values |= {} if shape.window is not None else {"attention.sliding_window": 0}
    if architecture in ("gpt-oss", "cohere2") and shape.window is not None:
        values["attention.sliding_window"] = int(config["sliding_window"])
    return {f"{architecture}.{key}": value for key, value in values.items()}
