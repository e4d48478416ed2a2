"""Tensors to read, independent of their file format, and tensors to write."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import numpy as np

from llmjax.errors import UserError

Index = tuple[slice, ...]
"""One slice per dimension, with step 1."""

FLOATS: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
"""Dtypes that parameters can be stored in."""


class TensorSource(Protocol):
    """Named tensors that are read one by one, or in parts, to avoid holding a model twice."""

    def names(self) -> Iterable[str]:
        """The names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""

    def dtype(self, name: str) -> np.dtype:
        """The dtype of what `read` returns."""

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """Read a tensor, or the part of it at `index`, into a new array.

        Raises:
          UserError: the file cannot be read.
        """


class RenamedTensors:
    """A `TensorSource` of some of another's tensors, under other names."""

    def __init__(self, source: TensorSource, names: Mapping[str, str]):
        """Args:
        source: the tensors.
        names: new name -> name in the source.
        """
        self._source, self._names = source, names

    def names(self) -> Iterable[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(self._names[name])

    def dtype(self, name: str) -> np.dtype:
        return self._source.dtype(self._names[name])

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        return self._source.read(self._names[name], index)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor to write, whose name and shape are known before it is computed."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        """Its size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


ALIGNMENT = 64
"""Bytes. On CPU, JAX aliases a NumPy array with this alignment instead of copying it."""


def empty_aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that JAX can alias on a CPU."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def assign(target: np.ndarray, values: np.ndarray) -> None:
    """`target[...] = values`; copies bfloat16 as integers, which is twice as fast in NumPy."""
    if target.dtype == values.dtype and target.dtype.kind == "V":
        integer = np.dtype(f"u{target.itemsize}")
        target, values = target.view(integer), values.view(integer)
    with np.errstate(over="ignore"):  # see check_overflow
        target[...] = values


def check_overflow(name: str, values: np.ndarray, before: np.dtype) -> None:
    """Raise a UserError if values cast from dtype `before` overflowed float16."""
    if values.dtype == FLOATS["float16"] != before and not np.isfinite(values).all():
        raise UserError(f"tensor {name}", "overflows float16", "choose bfloat16")


def equal_tensors(source: TensorSource, first: str, second: str) -> bool:
    """Whether two tensors are equal bit for bit; reads them in blocks of about 64 MB."""
    shape = source.shape(first)
    if shape != source.shape(second) or source.dtype(first) != source.dtype(second):
        return False
    size = source.dtype(first).itemsize * int(np.prod(shape[1:], dtype=np.int64))
    rows = max(1, (1 << 26) // max(size, 1))
    for start in range(0, shape[0] if shape else 1, rows):
        index = (slice(start, start + rows), *(slice(0, n) for n in shape[1:])) if shape else None
        if source.read(first, index).tobytes() != source.read(second, index).tobytes():
            return False
    return True


def check_float(source: TensorSource, name: str) -> None:
    """Raise a UserError unless a tensor has a floating-point dtype that parameters can have."""
    dtype = source.dtype(name)
    if dtype not in FLOATS.values() and dtype != np.float64:
        raise UserError(
            f"tensor {name}",
            f"is of dtype {dtype}; weights are float32, bfloat16, float16 or float64",
            "dequantise the model first",
        )
