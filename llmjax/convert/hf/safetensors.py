"""safetensors files: read lazily and in parts.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name -> dtype, shape
and the range of its bytes after the header) and the bytes. https://github.com/huggingface/safetensors
"""

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from llmjax.convert.hf.reading import open_regular
from llmjax.convert.tensors import Index
from llmjax.errors import UserError
from llmjax.storage.bounded import size_text
from llmjax.storage.json_documents import JsonLimits, parse_json

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
HEADER = JsonLimits(size=16 << 20, marks=1_000_000, depth=4)
"""What a header may be: some 75,000 tensors. The largest published files have some 1,000."""
MOST_DIMENSIONS = 8
"""Of a tensor; parameters have three at most."""
LONGEST_NAME = 1_000
"""Characters of a tensor's name."""
METADATA = "__metadata__"


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""

    @property
    def end(self) -> int:
        """Where its last byte ends, from the start of the file."""
        return self.offset + prod(self.shape) * self.dtype.itemsize


class TensorFiles:
    """The tensors of one or several files (a `TensorSource`)."""

    def __init__(self, stored: dict[str, Stored]):
        self._stored = stored

    def names(self) -> list[str]:
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self._stored[name].dtype

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        one = self._stored[name]
        if 0 in one.shape or not one.shape:
            return _read_small(one)[index or ...]
        try:
            # Mapped for this one read: pages of earlier tensors do not stay in memory.
            mapped = np.memmap(one.path, one.dtype, "r", one.offset, one.shape)
        except (OSError, ValueError) as error:
            raise UserError(one.path, f"cannot be read: {error}") from error
        return np.array(mapped[index or ...])


def read_header(path: Path) -> dict[str, Stored]:
    """What a file holds, all of it checked against the file's size.

    As the reference implementation demands, the tensors fill all that follows the header, and no
    two share a byte.

    Raises:
      UserError: it is damaged, or no safetensors file, or its header is beyond `HEADER`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise UserError(path, _truncated(size), "download it again")
        if length > HEADER.size:
            limit = f"at most {size_text(HEADER.size)} are read"
            raise UserError(path, f"has a header of {size_text(length)}, and {limit}")
        content = file.read(length)
    header = parse_json(content, path, limits=HEADER, unique=True, fix="download it again")
    if not isinstance(header, dict):
        raise UserError(path, "has a header that is not an object", "download it again")
    header.pop(METADATA, None)
    room = size - 8 - length
    found = {name: _stored(path, name, entry, 8 + length, room) for name, entry in header.items()}
    _check_places(path, found, 8 + length, room)
    return found


def _stored(path: Path, name: str, entry: Any, start: int, room: int) -> Stored:
    if len(name) > LONGEST_NAME:
        raise UserError(path, f"has a tensor whose name is longer than {LONGEST_NAME} characters")
    code, shape, offsets = (
        entry.get(field) if isinstance(entry, dict) else None
        for field in ("dtype", "shape", "data_offsets")
    )
    if not (isinstance(code, str) and isinstance(shape, list) and isinstance(offsets, list)):
        raise UserError(path, f"does not say where tensor {name} is", "download it again")
    if code not in DTYPES:
        raise UserError(f"tensor {name}", f"is of dtype {code[:20]}, which is not known here")
    if len(shape) > MOST_DIMENSIONS:
        raise UserError(path, f"gives tensor {name} more than {MOST_DIMENSIONS} dimensions")
    if len(offsets) != 2 or not all(type(number) is int for number in [*shape, *offsets]):
        raise UserError(path, f"gives tensor {name} sizes that are not numbers")
    begin, end = offsets
    if min(*shape, begin, end - begin, 0) < 0:
        raise UserError(path, f"gives tensor {name} sizes that are not numbers from 0 on")
    if prod(length for length in shape if length) >= 2**63:
        raise UserError(path, f"gives tensor {name} a shape of more than 2**63 elements")
    if end - begin != prod(shape) * DTYPES[code].itemsize:
        raise UserError(path, f"gives tensor {name} {end - begin} bytes, but shape {shape}"[:300])
    if end > room:
        raise UserError(path, f"is truncated: tensor {name} ends beyond it", "download it again")
    return Stored(path, DTYPES[code], tuple(shape), start + begin)


def _check_places(path: Path, found: dict[str, Stored], start: int, room: int) -> None:
    """Checks that tensors lie one behind another, and fill the file."""
    at, before = start, "the header"
    for name, one in sorted(found.items(), key=lambda item: (item[1].offset, item[1].end)):
        if one.offset != at:
            what = "shares bytes with" if one.offset < at else "leaves bytes unused behind"
            raise UserError(path, f"is damaged: tensor {name} {what} {before}", "download it again")
        at, before = one.end, f"tensor {name}"
    if at != start + room:
        raise UserError(
            path, f"has {start + room - at} bytes that no tensor takes", "download it again"
        )


def _truncated(size: int) -> str:
    return f"is truncated, or no safetensors file: {size} bytes do not hold its header"


def _read_small(one: Stored) -> np.ndarray:
    """What cannot be mapped: a scalar, or a tensor without elements."""
    with open_regular(one.path) as file:
        file.seek(one.offset)
        content = file.read(prod(one.shape) * one.dtype.itemsize)
    return np.frombuffer(content, one.dtype).reshape(one.shape).copy()
