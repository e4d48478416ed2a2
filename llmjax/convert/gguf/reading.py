"""Read a GGUF file with Transformers' config, and tensors as `gguf_table` names them."""

import re
import tempfile
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.families.family import Family
from llmjax.convert.families.registry import family_of
from llmjax.convert.gguf.config import config_of
from llmjax.convert.gguf.file import GgufFile, dequantizer, open_file
from llmjax.convert.gguf.metadata import recommended_sampling
from llmjax.convert.gguf.tensors import CONFIG_TENSORS, TABLES, TensorRule, gguf_table
from llmjax.convert.gguf.tokenizer import tokenizer_files
from llmjax.convert.hf.names import NameTable
from llmjax.convert.sources import Importer, Published
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig

BLOCK_ELEMENTS = 2**20
"""Elements to dequantise at a time, which bounds temporary memory."""


@dataclass(frozen=True, eq=False)
class Gguf:
    """A `TensorSource` of an open file, which dequantises tensors as they are read."""

    file: GgufFile
    config: dict[str, Any]
    """Transformers' config.json."""
    rules: dict[str, tuple[str, TensorRule]]
    """Name in Transformers -> name in the file, and its rule."""

    @property
    def family(self) -> Family:
        """The family of the model."""
        return family_of(self.config, self.file.path)

    @property
    def table(self) -> NameTable:
        """The names and layouts of the file's tensors."""
        split = not any(name.endswith(".attn_kv_b.weight") for name in self.file.tensors)
        return gguf_table(self.family, split=split)

    def read_config(self) -> ModelConfig:
        """The architecture; raises a UserError if it is not supported."""
        return self.family.read_config(self.config, self, self.file.path)

    def names(self) -> list[str]:
        return list(self.rules)

    def shape(self, name: str) -> tuple[int, ...]:
        stored, rule = self._stored(name)
        if rule.as_vector:
            return (1, *stored)
        return stored[::-1] if rule.transposed else stored

    def dtype(self, name: str) -> np.dtype:
        return dequantizer(self.file.tensors[self.rules[name][0]].kind)[0]

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        shape, rule = self._stored(name)
        index = (slice(None),) * len(self.shape(name)) if index is None else index
        if rule.as_vector:
            return self._vector(name)[None][index]
        index = index[::-1] if rule.transposed else index
        if len(shape) == 1:
            values = self._vector(name)[index]
        else:
            values = self._rows(name, index[0])[(slice(None), *index[1:])]
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
        """A range of the first dimension, with all of the others."""
        (first, *others), rule = self._stored(name)
        stored_name = self.rules[name][0]
        dtype, dequantize = dequantizer(self.file.tensors[stored_name].kind)
        order = np.arange(first) if rule.order is None else rule.order(self.config, first)
        order = order[index]
        raw = np.asarray(self.file.rows(stored_name, 0, first * prod(others[:-1])))
        raw = raw.reshape(first, -1)
        values = np.empty((len(order), prod(others)), dtype)
        step = max(BLOCK_ELEMENTS // prod(others), 1)
        for start in range(0, len(order), step):
            part = raw[order[start : start + step]].reshape(-1, raw.shape[1] // prod(others[:-1]))
            values[start : start + step] = dequantize(part).reshape(-1, prod(others))
        return values.reshape(len(order), *others)

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
    return gguf_of(open_file(Path(path)))


def gguf_of(file: GgufFile) -> Gguf:
    """The model of a file whose header is read.

    Raises:
      UserError: its model or a tensor is not supported.
    """
    config = config_of(file)
    table = TABLES[str(file.metadata["general.architecture"])]
    rules: dict[str, tuple[str, TensorRule]] = {}
    layers = int(config.get("num_hidden_layers") or config["n_layer"])
    for stored_name, stored in file.tensors.items():
        if stored_name in CONFIG_TENSORS:
            continue
        layer = re.match(r"blk\.(\d{1,6})\.", stored_name)
        number = layer.group(1) if layer else ""
        if layer and int(number) >= layers:
            continue
        pattern = stored_name.replace(f"blk.{number}.", "blk.{}.", 1) if layer else stored_name
        rule = table.get(pattern)
        if rule is None or len(stored.shape) > 3:
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
        return Published(
            source, "gguf", path, opened.config, opened, tokenizer, sampling, table=opened.table
        )
