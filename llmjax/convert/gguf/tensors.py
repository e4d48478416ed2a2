"""Names and layouts of tensors in GGUF files, as tables from those of Transformers.

GGUF names are those of gguf-py's constants, Transformers' those of the models' state dicts. `{}`
stands for the layer. Experts lie in one tensor per projection and layer, which no tensor of most
Transformers models equals: those tensors are named as in GGUF, and `gguf_table` has their layouts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmjax.convert.families.family import Family
from llmjax.convert.hf.names import Layout, NameRow, NameTable

Order = Callable[[dict[str, Any], int], np.ndarray]
"""(Transformers' config, number of rows) -> for each row, its index in the file."""


@dataclass(frozen=True)
class TensorRule:
    """How to convert a tensor."""

    name: str
    """The name in Transformers."""
    order: Order | None = None
    """Permutation of its rows, if any."""
    transposed: bool = False
    plus: float = 0.0
    """Offset to add to the file's values."""
    as_vector: bool = False
    """Whether the file has a vector for its only row."""


def rotary_pairs(heads: int, rows: int) -> np.ndarray:
    """Row order from interleaved pairs (2i, 2i + 1) to halves (i, i + half), for each head."""
    half = rows // heads // 2
    return np.arange(rows).reshape(heads, half, 2).swapaxes(1, 2).reshape(rows)


def _queries(config: dict[str, Any], rows: int) -> np.ndarray:
    return rotary_pairs(config["num_attention_heads"], rows)


def _keys(config: dict[str, Any], rows: int) -> np.ndarray:
    return rotary_pairs(config["num_key_value_heads"], rows)


def _interleaved(config: dict[str, Any], rows: int) -> np.ndarray:
    """Row order from all queries, all keys, all values to query, key, value per head."""
    heads = config["num_attention_heads"]
    return np.arange(rows).reshape(3, heads, -1).swapaxes(0, 1).reshape(rows)


def _rules(names: dict[str, str]) -> dict[str, TensorRule]:
    """Rules for the weight and bias of each module."""
    return {
        f"{name}.{kind}": TensorRule(f"{hf_name}.{kind}")
        for name, hf_name in names.items()
        for kind in ("weight", "bias")
    }


_ENDS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_ATTENTION = {
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
}
_MLP = {
    "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
}
_NORMS = {
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
}
_QK_NORMS = {
    "blk.{}.attn_q_norm": "model.layers.{}.self_attn.q_norm",
    "blk.{}.attn_k_norm": "model.layers.{}.self_attn.k_norm",
}
_ONE_NORM = {"blk.{}.attn_norm": "model.layers.{}.input_layernorm"}
_SANDWICH = {
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_norm": "model.layers.{}.pre_feedforward_layernorm",
    "blk.{}.post_ffw_norm": "model.layers.{}.post_feedforward_layernorm",
}
_OUTPUT_NORMS = {
    "blk.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.post_ffw_norm": "model.layers.{}.post_feedforward_layernorm",
}
_PHI3 = {
    "blk.{}.attn_qkv": "model.layers.{}.self_attn.qkv_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.gate_up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
}
_GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.{}.attn_norm": "transformer.h.{}.ln_1",
    "blk.{}.ffn_norm": "transformer.h.{}.ln_2",
    "blk.{}.attn_qkv": "transformer.h.{}.attn.c_attn",
    "blk.{}.attn_output": "transformer.h.{}.attn.c_proj",
    "blk.{}.ffn_up": "transformer.h.{}.mlp.c_fc",
    "blk.{}.ffn_down": "transformer.h.{}.mlp.c_proj",
}
_STARCODER2 = {
    "blk.{}.ffn_up": "model.layers.{}.mlp.c_fc",
    "blk.{}.ffn_down": "model.layers.{}.mlp.c_proj",
}
_GPT_NEOX = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
    "blk.{}.attn_norm": "gpt_neox.layers.{}.input_layernorm",
    "blk.{}.ffn_norm": "gpt_neox.layers.{}.post_attention_layernorm",
    "blk.{}.attn_qkv": "gpt_neox.layers.{}.attention.query_key_value",
    "blk.{}.attn_output": "gpt_neox.layers.{}.attention.dense",
    "blk.{}.ffn_up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "blk.{}.ffn_down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
}
_ROUTER = {"blk.{}.ffn_gate_inp": "model.layers.{}.mlp.gate"}


_LLAMA4 = {
    "blk.{}.ffn_gate": "model.layers.{}.feed_forward.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.feed_forward.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.feed_forward.down_proj",
    "blk.{}.ffn_gate_inp": "model.layers.{}.feed_forward.router",
}


def _shared(name: str, mlp: str = "mlp") -> dict[str, str]:
    """The names of the expert that all tokens use."""
    return {
        f"blk.{{}}.ffn_{part}_shexp": f"model.layers.{{}}.{mlp}.{name}.{part}_proj"
        for part in ("gate", "up", "down")
    }


_LATER_NORMS = {
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
}
_LATENT = {
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_q_a": "model.layers.{}.self_attn.q_a_proj",
    "blk.{}.attn_q_a_norm": "model.layers.{}.self_attn.q_a_layernorm",
    "blk.{}.attn_q_b": "model.layers.{}.self_attn.q_b_proj",
    "blk.{}.attn_kv_a_mqa": "model.layers.{}.self_attn.kv_a_proj_with_mqa",
    "blk.{}.attn_kv_a_norm": "model.layers.{}.self_attn.kv_a_layernorm",
    "blk.{}.attn_kv_b": "model.layers.{}.self_attn.kv_b_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
}

_MLP_PARAMS = "decoder.layers.mlp"
EXPERT_ROWS = (
    *(
        NameRow(f"{_MLP_PARAMS}.experts.{part}.{kind}", f"blk.{{layer}}.ffn_{part}_exps.{end}", way)
        for part in ("gate", "up")
        for kind, end, way in (
            ("kernel", "weight", Layout("a m d -> a d m")),
            ("bias", "bias", Layout("a m -> a m")),
        )
    ),
    NameRow(
        f"{_MLP_PARAMS}.experts.down.kernel",
        "blk.{layer}.ffn_down_exps.weight",
        Layout("a d m -> a m d"),
    ),
    NameRow(
        f"{_MLP_PARAMS}.experts.down.bias", "blk.{layer}.ffn_down_exps.bias", Layout("a d -> a d")
    ),
)
"""All experts of a layer in one tensor."""
LATENT_ROWS = (
    NameRow(
        "decoder.layers.attention.key.kernel",
        "blk.{layer}.attn_k_b.weight",
        Layout("h c g -> c h g"),
    ),
    NameRow(
        "decoder.layers.attention.value.kernel",
        "blk.{layer}.attn_v_b.weight",
        Layout("h w c -> c h w"),
    ),
)
"""The projections from compressed keys and values, which llama.cpp since 2025 multiplies with
queries and outputs instead; older files have attn_kv_b, with both of each head in turn."""


def _as_in_gguf(rows: tuple[NameRow, ...]) -> dict[str, TensorRule]:
    """Rules of tensors that keep their names."""
    names = [row.tensor.replace("{layer}", "{}") for row in rows]
    return {name: TensorRule(name) for name in names}


_EXPERTS = _as_in_gguf(EXPERT_ROWS)
_SELECTION_BIAS = {
    "blk.{}.exp_probs_b.bias": TensorRule("model.layers.{}.mlp.gate.e_score_correction_bias")
}
_SHARED_GATE = {
    "blk.{}.ffn_gate_inp_shexp.weight": TensorRule(
        "model.layers.{}.mlp.shared_expert_gate.weight", as_vector=True
    )
}


def gguf_table(family: Family, *, split: bool = True) -> NameTable:
    """The family's name table, with the tensors that only GGUF has.

    Args:
      family: of the model.
      split: whether keys and values are projected from compressed ones by two tensors; False: by
        one, as in Transformers.
    """
    latent = any(
        row.param == "decoder.layers.attention.kv_down.kernel" for row in family.table.rows
    )
    gguf_only = {row.param: row for row in EXPERT_ROWS + (LATENT_ROWS if latent and split else ())}
    rows = dict.fromkeys(gguf_only.get(row.param, row) for row in family.table.rows)
    return replace(family.table, rows=tuple(rows))


def _changed(
    table: dict[str, TensorRule], ends: tuple[str, ...], **fields: Any
) -> dict[str, TensorRule]:
    """The table with changed fields for tensors whose names in the file end in one of `ends`."""
    changed = {name: replace(rule, **fields) for name, rule in table.items() if name.endswith(ends)}
    return table | changed


def _llama() -> dict[str, TensorRule]:
    table = _rules(_ENDS | _ATTENTION | _MLP | _NORMS)
    table = _changed(table, ("attn_q.weight", "attn_q.bias"), order=_queries)
    return _changed(table, ("attn_k.weight", "attn_k.bias"), order=_keys)


def _gemma(layer: dict[str, str]) -> dict[str, TensorRule]:
    return _changed(_rules(_ENDS | _ATTENTION | _MLP | layer), ("norm.weight",), plus=-1.0)


TABLES: dict[str, dict[str, TensorRule]] = {
    "llama": _llama()
    | _rules({"blk.{}.ffn_gate_inp": "model.layers.{}.block_sparse_moe.gate"})
    | _EXPERTS,
    "smollm3": _llama(),
    "qwen2": _rules(_ENDS | _ATTENTION | _MLP | _NORMS),
    "qwen3": _rules(_ENDS | _ATTENTION | _MLP | _NORMS | _QK_NORMS),
    "gemma": _gemma(_NORMS),
    "gemma2": _gemma(_SANDWICH),
    "gemma3": _gemma(_SANDWICH | _QK_NORMS),
    "command-r": _rules(_ENDS | _ATTENTION | _MLP | _QK_NORMS | _ONE_NORM),
    "cohere2": _rules(_ENDS | _ATTENTION | _MLP | _ONE_NORM),
    "granite": _llama(),
    "starcoder2": _rules(_ENDS | _ATTENTION | _STARCODER2 | _NORMS),
    "olmo2": _rules(_ENDS | _ATTENTION | _MLP | _QK_NORMS | _OUTPUT_NORMS),
    "phi3": _rules(_ENDS | _PHI3 | _NORMS),
    "gpt2": _changed(
        _rules(_GPT2),
        ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"),
        transposed=True,
    ),
    "gptneox": _changed(
        _rules(_GPT_NEOX), ("attn_qkv.weight", "attn_qkv.bias"), order=_interleaved
    ),
    "qwen2moe": _rules(_ENDS | _ATTENTION | _NORMS | _ROUTER | _shared("shared_expert"))
    | _EXPERTS
    | _SHARED_GATE,
    "qwen3moe": _rules(_ENDS | _ATTENTION | _NORMS | _QK_NORMS | _ROUTER) | _EXPERTS,
    "olmoe": _rules(_ENDS | _ATTENTION | _NORMS | _QK_NORMS | _ROUTER) | _EXPERTS,
    "glm4moe": _rules(
        _ENDS | _ATTENTION | _LATER_NORMS | _QK_NORMS | _MLP | _ROUTER | _shared("shared_experts")
    )
    | _EXPERTS
    | _SELECTION_BIAS,
    "granitemoe": _llama()
    | _rules({"blk.{}.ffn_gate_inp": "model.layers.{}.block_sparse_moe.router.layer"})
    | _EXPERTS,
    "gpt-oss": _rules(
        _ENDS | _ATTENTION | _LATER_NORMS | {"blk.{}.ffn_gate_inp": "model.layers.{}.mlp.router"}
    )
    | _EXPERTS
    | {"blk.{}.attn_sinks.weight": TensorRule("model.layers.{}.self_attn.sinks")},
    "llama4": _rules(
        _ENDS | _ATTENTION | _NORMS | _LLAMA4 | _shared("shared_expert", "feed_forward")
    )
    | _EXPERTS,
    "deepseek2": _rules(_ENDS | _LATENT | _NORMS | _MLP | _ROUTER | _shared("shared_experts"))
    | _EXPERTS
    | _SELECTION_BIAS
    | _as_in_gguf(LATENT_ROWS),
}
"""Architecture of a GGUF file -> name in the file -> rule."""

CONFIG_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that are converted to config fields."""
