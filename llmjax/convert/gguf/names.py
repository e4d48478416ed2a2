"""What the tensors of a GGUF file are called in Transformers, and how their layouts differ.

GGUF's names are those of gguf-py's constants; Transformers' are those of the models' state dicts.
`{}` stands for the layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Order = Callable[[dict[str, Any], int], np.ndarray]
"""Of Transformers' config and a number of rows: the row of the file that each row comes from."""


@dataclass(frozen=True)
class Tensor:
    """What one tensor of a file becomes."""

    name: str
    """In Transformers."""
    order: Order | None = None
    """How its rows are taken from the file's; None: as they lie there."""
    transposed: bool = False
    plus: float = 0.0
    """What Transformers' values have more than the file's."""


def rotary_pairs(heads: int, rows: int) -> np.ndarray:
    """Pairs that lie side by side in the file (2i, 2i + 1) become (i, i + half), head by head."""
    half = rows // heads // 2
    return np.arange(rows).reshape(heads, half, 2).swapaxes(1, 2).reshape(rows)


def _queries(config: dict[str, Any], rows: int) -> np.ndarray:
    return rotary_pairs(config["num_attention_heads"], rows)


def _keys(config: dict[str, Any], rows: int) -> np.ndarray:
    return rotary_pairs(config["num_key_value_heads"], rows)


def _interleaved(config: dict[str, Any], rows: int) -> np.ndarray:
    """All queries, all keys, all values become query, key and value of each head."""
    heads = config["num_attention_heads"]
    return np.arange(rows).reshape(3, heads, -1).swapaxes(0, 1).reshape(rows)


def _both(names: dict[str, str]) -> dict[str, Tensor]:
    """Weight and bias of each."""
    return {
        f"{theirs}.{kind}": Tensor(f"{ours}.{kind}")
        for theirs, ours in names.items()
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


def _changed(table: dict[str, Tensor], part: tuple[str, ...], **fields: Any) -> dict[str, Tensor]:
    """The table with fields of the tensors whose names in the file end in one of these."""
    found = dict(table)
    for theirs, tensor in table.items():
        if theirs.endswith(part):
            found[theirs] = Tensor(tensor.name, **fields)
    return found


def _llama() -> dict[str, Tensor]:
    table = _both(_ENDS | _ATTENTION | _MLP | _NORMS)
    table = _changed(table, ("attn_q.weight", "attn_q.bias"), order=_queries)
    return _changed(table, ("attn_k.weight", "attn_k.bias"), order=_keys)


def _gemma(layer: dict[str, str]) -> dict[str, Tensor]:
    return _changed(_both(_ENDS | _ATTENTION | _MLP | layer), ("norm.weight",), plus=-1.0)


TABLES: dict[str, dict[str, Tensor]] = {
    "llama": _llama(),
    "smollm3": _llama(),
    "qwen2": _both(_ENDS | _ATTENTION | _MLP | _NORMS),
    "qwen3": _both(_ENDS | _ATTENTION | _MLP | _NORMS | _QK_NORMS),
    "gemma": _gemma(_NORMS),
    "gemma2": _gemma(_SANDWICH),
    "gemma3": _gemma(_SANDWICH | _QK_NORMS),
    "olmo2": _both(_ENDS | _ATTENTION | _MLP | _QK_NORMS | _OUTPUT_NORMS),
    "phi3": _both(_ENDS | _PHI3 | _NORMS),
    "gpt2": _changed(
        _both(_GPT2),
        ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"),
        transposed=True,
    ),
    "gptneox": _changed(_both(_GPT_NEOX), ("attn_qkv.weight", "attn_qkv.bias"), order=_interleaved),
}
"""Architecture of a GGUF file -> name in the file -> what it becomes."""

CONSUMED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that become numbers of the config."""
