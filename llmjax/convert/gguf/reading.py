"""Read a GGUF file with Transformers' config, tensor names and layouts.

GGUF names are those of gguf-py's constants, Transformers' those of the models' state dicts. `{}`
stands for the layer.
"""

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.gguf.config import config_of
from llmjax.convert.gguf.file import GgufFile, dequantizer, open_file
from llmjax.convert.gguf.metadata import recommended_sampling
from llmjax.convert.gguf.tokenizer import tokenizer_files
from llmjax.convert.sources import Importer, Published
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

Order = Callable[[dict[str, Any], int], np.ndarray]
"""(Transformers' config, number of rows) -> for each row, its index in the file."""
BLOCK_ELEMENTS = 2**20
"""Elements to dequantise at a time, which bounds temporary memory."""


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
    "llama": _llama(),
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
}
"""Architecture of a GGUF file -> name in the file -> rule."""

CONFIG_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that are converted to config fields."""


@dataclass(frozen=True, eq=False)
class Gguf:
    """A `TensorSource` of an open file, which dequantises tensors as they are read."""

    file: GgufFile
    config: dict[str, Any]
    """Transformers' config.json."""
    rules: dict[str, tuple[str, TensorRule]]
    """Name in Transformers -> name in the file, and its rule."""

    def names(self) -> list[str]:
        return list(self.rules)

    def shape(self, name: str) -> tuple[int, ...]:
        stored, rule = self._stored(name)
        return stored[::-1] if rule.transposed else stored

    def dtype(self, name: str) -> np.dtype:
        return dequantizer(self.file.tensors[self.rules[name][0]].kind)[0]

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        shape, rule = self._stored(name)
        index = (slice(None),) * len(shape) if index is None else index
        index = index[::-1] if rule.transposed else index
        values = self._rows(name, index[0]) if len(shape) == 2 else self._vector(name)
        values = values[:, index[1]] if len(shape) == 2 else values[index[0]]
        if rule.plus:
            values = (values + values.dtype.type(rule.plus)).astype(values.dtype)
        return np.ascontiguousarray(values.T if rule.transposed else values)

    def _stored(self, name: str) -> tuple[tuple[int, ...], TensorRule]:
        stored_name, rule = self.rules[name]
        return self.file.tensors[stored_name].shape, rule

    def _vector(self, name: str) -> np.ndarray:
        (length,), rule = self._stored(name)
        values = self.stored_values(self.rules[name][0])[0]
        return values if rule.order is None else values[rule.order(self.config, length)]

    def _rows(self, name: str, index: slice) -> np.ndarray:
        """Rows of a matrix, with all columns."""
        (rows, columns), rule = self._stored(name)
        stored_name = self.rules[name][0]
        dtype, dequantize = dequantizer(self.file.tensors[stored_name].kind)
        order = np.arange(rows) if rule.order is None else rule.order(self.config, rows)
        order = order[index]
        raw = np.asarray(self.file.rows(stored_name, 0, rows))
        values = np.empty((len(order), columns), dtype)
        step = max(BLOCK_ELEMENTS // columns, 1)
        for start in range(0, len(order), step):
            values[start : start + step] = dequantize(raw[order[start : start + step]])
        return values

    def stored_values(self, stored_name: str) -> np.ndarray:
        """Dequantise a tensor by its name in the file, without permuting: [rows, columns]."""
        stored = self.file.tensors[stored_name]
        rows = int(np.prod(stored.shape[:-1]))
        _, dequantize = dequantizer(stored.kind)
        return np.array(dequantize(np.asarray(self.file.rows(stored_name, 0, rows))))


def open_gguf(path: Path | str) -> Gguf:
    """Open a GGUF file.

    Raises:
      UserError: the file is damaged or not GGUF, or its model or a tensor is not supported.
    """
    file = open_file(Path(path))
    config = config_of(file)
    table = TABLES[str(file.metadata["general.architecture"])]
    rules: dict[str, tuple[str, TensorRule]] = {}
    for stored_name, stored in file.tensors.items():
        if stored_name in CONFIG_TENSORS:
            continue
        layer = re.match(r"blk\.(\d{1,6})\.", stored_name)
        number = layer.group(1) if layer else ""
        pattern = stored_name.replace(f"blk.{number}.", "blk.{}.", 1) if layer else stored_name
        rule = table.get(pattern)
        if rule is None or len(stored.shape) > 2:
            shown = f"{stored_name} {list(stored.shape)}"
            raise UserError(
                file.path,
                f"has a tensor {shown} that {config['model_type']} does not have",
                "give a file from another conversion",
            )
        name = rule.name.format(number)
        rules[name] = (stored_name, replace(rule, name=name))
    return Gguf(file, config, rules)


class GgufImporter(Importer):
    """GGUF files of llama.cpp."""

    @staticmethod
    def reads(path: Path) -> bool:
        return path.suffix == ".gguf"

    @staticmethod
    def open(source: str, path: Path) -> Published:
        opened = open_gguf(path)

        def tokenizer(rows: int) -> Tokenizer:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in tokenizer_files(opened.file).items():
                    (Path(folder) / name).write_bytes(content)
                return import_tokenizer(Path(folder), rows)

        sampling = recommended_sampling(opened.file)
        return Published(source, "gguf", path, opened.config, opened, tokenizer, sampling)
