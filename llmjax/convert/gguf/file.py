"""Read a GGUF file's header: metadata and tensor locations, with all sizes checked.

Format: github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3. The `gguf` package is not used for
the header, since it trusts the sizes stated in a file.
"""

import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from llmjax.errors import UserError
from llmjax.storage.bounded import regular_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_ENTRIES = 10_000
"""Metadata entries; published files have about 40."""
MAX_TENSORS = 200_000
"""Published files of the supported architectures have about 1,000."""
MAX_STRINGS = 2_000_000
"""Strings in all metadata arrays together (tokens, merges); the largest published have 800,000."""
MAX_NAME = 1_000
"""Bytes of a key or a tensor's name; the format allows 64 for tensors."""
MAX_STRING = 4 << 20
"""Bytes of a string; the longest, chat templates, have about 10,000."""
MAX_HEADER = 256 << 20
"""Bytes of the header; the largest published ones have about 20,000,000."""
STRING, ARRAY = 8, 9
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Value type -> struct code."""
MIN_ENTRY, MIN_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8
"""Minimum bytes of a metadata entry and of an entry in the tensor table."""


@dataclass(frozen=True)
class StoredTensor:
    """The location and type of a tensor in a file."""

    shape: tuple[int, ...]
    """Outermost dimension first, the reverse of the file's order."""
    kind: int
    """Quantisation, a gguf.GGMLQuantizationType."""
    offset: int
    """Bytes from the start of the file."""
    nbytes: int


@dataclass(frozen=True, eq=False)
class GgufFile:
    """The header of a file, with access to tensors by rows."""

    path: Path
    metadata: dict[str, Any]
    """Numbers, strings, lists of strings, and NumPy arrays of numbers."""
    tensors: dict[str, StoredTensor]

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """The stored bytes of rows (all dimensions but the last, flattened), [rows, bytes]."""
        stored = self.tensors[name]
        width = stored.nbytes // prod(stored.shape[:-1])
        first, shape = stored.offset + start * width, (stop - start, width)
        try:
            # A new mapping per read, so that pages of earlier tensors do not stay in memory.
            return np.memmap(self.path, np.uint8, "r", first, shape)
        except (OSError, ValueError) as error:
            raise UserError(self.path, f"cannot be read: {error}") from error


def open_file(path: Path) -> GgufFile:
    """Read the header of a GGUF file.

    Raises:
      UserError: the file cannot be read, is not a GGUF file, or is damaged.
    """
    try:
        with regular_file(path, fix="check the path") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24 or file.read(4) != MAGIC:
                raise UserError(path, "is not a GGUF file", "give the path of a .gguf file")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise UserError(path, f"cannot be read: {error}", "check the path") from error
    return GgufFile(path, *_Header(path, memoryview(mapped)).read())


class _Header:
    """A cursor in the file that never moves past its end."""

    def __init__(self, path: Path, data: memoryview):
        self.path, self.data, self.position = path, data, 4
        self.strings_left = MAX_STRINGS

    def fail(self, why: str) -> NoReturn:
        raise UserError(self.path, f"is a damaged GGUF file: {why}", "download it again")

    def read(self) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
        (version,) = self.numbers("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            what = "is big-endian" if swapped else f"is GGUF version {version}"
            raise UserError(self.path, what, "convert it to little-endian version 3")
        tensors, entries = self.numbers("QQ")
        self.check_count("entries of metadata", entries, MIN_ENTRY, MAX_ENTRIES)
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self.string("a key", MAX_NAME)
            if key in metadata:
                self.fail(f"{key} appears twice")
            metadata[key] = self.value(key, *self.numbers("I"))
        self.check_count("tensors", tensors, MIN_TENSOR, MAX_TENSORS)
        table = dict(self.tensor() for _ in range(tensors))
        if len(table) != tensors:
            self.fail("a tensor appears twice")
        return metadata, self.locate(table, metadata.get("general.alignment", 32))

    def take(self, size: int, what: str) -> memoryview:
        if size > len(self.data) - self.position:
            self.fail(f"{what} of {size} bytes extends past its end")
        self.position += size
        if self.position > MAX_HEADER:
            self.fail(f"its header is longer than {MAX_HEADER:,} bytes")
        return self.data[self.position - size : self.position]

    def numbers(self, codes: str) -> tuple[Any, ...]:
        form = f"<{codes}"
        return struct.unpack(form, self.take(struct.calcsize(form), "its header"))

    def check_count(self, what: str, count: int, smallest: int, most: int) -> None:
        """Refuse an impossible count before allocating anything."""
        if count * smallest > len(self.data) - self.position:
            self.fail(f"{count} {what} do not fit into it")
        if count > most:
            self.fail(f"{count:,} {what} exceed the limit of {most:,}")

    def string(self, what: str, longest: int = MAX_STRING) -> str:
        (size,) = self.numbers("Q")
        raw = self.take(size, what)
        if size > longest:
            self.fail(f"{what} is longer than {longest:,} bytes")
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")

    def value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self.string(key)
        if kind in SCALARS:
            return self.numbers(SCALARS[kind])[0]
        if kind != ARRAY:
            self.fail(f"{key} is of the unknown type {kind}")
        inner, count = self.numbers("IQ")
        if inner == STRING:
            self.check_count(f"strings of {key}", count, 8, self.strings_left)
            self.strings_left -= count
            return [self.string(key) for _ in range(count)]
        if inner not in SCALARS:
            self.fail(f"{key} is an array of the unknown type {inner}")
        dtype = np.dtype(SCALARS[inner]).newbyteorder("<")
        return np.frombuffer(bytes(self.take(count * dtype.itemsize, key)), dtype)

    def tensor(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        name = self.string("a tensor's name", MAX_NAME)
        (dimensions,) = self.numbers("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self.fail(f"{name} has {dimensions} dimensions")
        shape = self.numbers(f"{dimensions}Q")[::-1]
        return name, (shape, *self.numbers("IQ"))

    def locate(
        self, table: dict[str, tuple[tuple[int, ...], int, int]], alignment: Any
    ) -> dict[str, StoredTensor]:
        """Locate the tensors, checking that each lies within the file."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            self.fail(f"general.alignment is {alignment}, not a power of two")
        start = -(-self.position // alignment) * alignment
        blocks = {int(kind): sizes for kind, sizes in library().GGML_QUANT_SIZES.items()}
        tensors = {}
        for name, (shape, kind, offset) in table.items():
            if kind not in blocks:
                self.fail(f"{name} is of the unknown quantisation {kind}")
            block, width = blocks[kind]
            if min(shape) < 1 or shape[-1] % block:
                self.fail(f"{name} {list(shape)} does not consist of whole blocks of {block}")
            nbytes = prod(shape) // block * width
            if offset % alignment or start + offset + nbytes > len(self.data):
                self.fail(f"{name} {list(shape)} at {offset} lies outside of it")
            tensors[name] = StoredTensor(tuple(shape), kind, start + offset, nbytes)
        return tensors


def library() -> Any:
    """Import the `gguf` package.

    Raises:
      UserError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError("GGUF", "needs the gguf package", "pip install 'llmjax[gguf]'") from error
    return gguf


def dequantizer(kind: int) -> tuple[np.dtype, Callable[[np.ndarray], np.ndarray]]:
    """The dtype of dequantised values, and a function from bytes [rows, bytes] to them [rows, n].

    Raises:
      UserError: the `gguf` package does not support the quantisation.
    """
    gguf = library()
    kinds = gguf.GGMLQuantizationType
    plain = {kinds.F32: "<f4", kinds.F16: "<f2", kinds.BF16: ml_dtypes.bfloat16, kinds.F64: "<f8"}
    if kind in plain:
        dtype = np.dtype(plain[kinds(kind)])
        return dtype, lambda rows: rows.view(dtype)

    def dequantize(rows: np.ndarray) -> np.ndarray:
        try:
            return gguf.quants.dequantize(rows, kinds(kind))
        except NotImplementedError as error:
            raise UserError(
                f"quantisation {kinds(kind).name}",
                "the gguf package cannot read it",
                "give a file of another quantisation",
            ) from error

    return np.dtype(np.float32), dequantize
