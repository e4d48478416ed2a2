"""Tensors to read, whatever the format of their file; and tensors to write."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import numpy as np

from llmjax.errors import UserError

Index = tuple[slice, ...]
"""A part of a tensor, a slice for each dimension; steps are 1."""

FLOATS: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
"""What parameters may be stored in."""


class TensorSource(Protocol):
    """Named tensors that are read one by one, or in parts: a model need never be held twice."""

    def names(self) -> Iterable[str]:
        """All there are."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""

    def dtype(self, name: str) -> np.dtype:
        """What `read` returns."""

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        """The tensor, or the part of it at `index`, as an array of its own.

        Raises:
          UserError: the file cannot be read.
        """


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that will be written: its name and shape are known before it is computed."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        """Its size in a file."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


ALIGNMENT = 64
"""Bytes. JAX takes over a NumPy array that begins at a multiple of this, instead of copying it."""


def empty_aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that JAX can take over on a CPU."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def assign(place: np.ndarray, values: np.ndarray) -> None:
    """`place[...] = values`; NumPy moves numbers of its own kinds twice as fast as bfloat16."""
    if place.dtype == values.dtype and place.dtype.kind == "V":
        plain = np.dtype(f"u{place.itemsize}")
        place, values = place.view(plain), values.view(plain)
    with np.errstate(over="ignore"):  # see check_overflow
        place[...] = values


def check_overflow(name: str, values: np.ndarray, before: np.dtype) -> None:
    """Raises a UserError where numbers were too large for the dtype that they were cast to."""
    if values.dtype == FLOATS["float16"] != before and not np.isfinite(values).all():
        raise UserError(f"tensor {name}", "overflows float16", "choose bfloat16")


def equal_tensors(source: TensorSource, first: str, second: str) -> bool:
    """Whether two tensors are equal bit for bit; they are read in parts of about 64 MB."""
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
    """Raises a UserError unless a tensor is of a dtype that parameters may have."""
    dtype = source.dtype(name)
    if dtype not in FLOATS.values() and dtype != np.float64:
        raise UserError(
            f"tensor {name}",
            f"is of dtype {dtype}; weights are float32, bfloat16, float16 or float64",
            "dequantise the model first",
        )
