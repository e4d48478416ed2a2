"""A GGUF file as Transformers would have the model: its config, names, layouts and numbers."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.gguf.config import config_of
from llmjax.convert.gguf.file import GgufFile, dequantizer, open_file
from llmjax.errors import UserError

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


AT_ONCE = 2**20
"""Numbers that are dequantised together, so that little memory is needed beside the result."""


@dataclass(frozen=True, eq=False)
class Gguf:
    """An open file; tensors are read, and dequantised, only as far as they are asked for."""

    file: GgufFile
    config: dict[str, Any]
    """As config.json of Transformers."""
    tensors: dict[str, tuple[str, Tensor]]
    """Name in Transformers -> name in the file, and how it differs."""

    @property
    def metadata(self) -> dict[str, Any]:
        """All keys of the file."""
        return self.file.metadata

    def names(self) -> list[str]:
        """Transformers' names of all tensors."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, as Transformers has it."""
        stored, tensor = self._stored(name)
        return stored[::-1] if tensor.transposed else stored

    def dtype(self, name: str) -> np.dtype:
        """That a tensor is read as: its own, or float32 where it is quantised."""
        return dequantizer(self.file.tensors[self.tensors[name][0]].kind)[0]

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """A tensor, or the part of it that `index` (a slice for each dimension) cuts out."""
        shape, tensor = self._stored(name)
        index = (slice(None),) * len(shape) if index is None else index
        index = index[::-1] if tensor.transposed else index
        values = self._rows(name, index[0]) if len(shape) == 2 else self._row(name)
        values = values[:, index[1]] if len(shape) == 2 else values[index[0]]
        if tensor.plus:
            values = (values + values.dtype.type(tensor.plus)).astype(values.dtype)
        return np.ascontiguousarray(values.T if tensor.transposed else values)

    def _stored(self, name: str) -> tuple[tuple[int, ...], Tensor]:
        theirs, tensor = self.tensors[name]
        return self.file.tensors[theirs].shape, tensor

    def _row(self, name: str) -> np.ndarray:
        (length,), tensor = self._stored(name)
        theirs = self.tensors[name][0]
        _, dequantize = dequantizer(self.file.tensors[theirs].kind)
        values = np.array(dequantize(self.file.rows(theirs, 0, 1))[0])
        return values if tensor.order is None else values[tensor.order(self.config, length)]

    def _rows(self, name: str, which: slice) -> np.ndarray:
        """Some rows of a matrix, all their columns."""
        (rows, columns), tensor = self._stored(name)
        theirs = self.tensors[name][0]
        dtype, dequantize = dequantizer(self.file.tensors[theirs].kind)
        order = np.arange(rows) if tensor.order is None else tensor.order(self.config, rows)
        order = order[which]
        raw = np.asarray(self.file.rows(theirs, 0, rows))
        values = np.empty((len(order), columns), dtype)
        step = max(AT_ONCE // columns, 1)
        for start in range(0, len(order), step):
            part = raw[order[start : start + step]]
            values[start : start + step] = dequantize(part)
        return values

    def stored_values(self, theirs: str) -> np.ndarray:
        """A tensor by its name in the file, as it lies there: [rows, columns]."""
        shape, kind = self.file.tensors[theirs].shape, self.file.tensors[theirs].kind
        rows = int(np.prod(shape[:-1]))
        return np.array(dequantizer(kind)[1](np.asarray(self.file.rows(theirs, 0, rows))))


def open_gguf(path: Path | str) -> Gguf:
    """Opens a GGUF file.

    Raises:
      UserError: it is no GGUF file, is damaged, holds a model that is not supported here, or a
        tensor whose meaning is not known.
    """
    file = open_file(Path(path))
    config = config_of(file)
    table = TABLES[str(file.metadata["general.architecture"])]
    tensors: dict[str, tuple[str, Tensor]] = {}
    for theirs, stored in file.tensors.items():
        if theirs in CONSUMED:
            continue
        layer = re.match(r"blk\.(\d{1,6})\.", theirs)
        number = layer.group(1) if layer else ""
        tensor = table.get(theirs.replace(f"blk.{number}.", "blk.{}.", 1) if layer else theirs)
        if tensor is None or len(stored.shape) > 2:
            raise UserError(
                file.path,
                f"has a tensor {theirs} {list(stored.shape)} that {config['model_type']} has not",
                "give a file of another conversion",
            )
        name = tensor.name.format(number)
        tensors[name] = (theirs, Tensor(name, tensor.order, tensor.transposed, tensor.plus))
    return Gguf(file, config, tensors)
