"""A GGUF file as Transformers would have the model: its config, names, layouts and numbers."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.gguf.config import config_of
from llmjax.convert.gguf.file import GgufFile, dequantizer, open_file
from llmjax.convert.gguf.names import CONSUMED, TABLES, Tensor
from llmjax.errors import UserError

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
