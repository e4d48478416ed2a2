"""safetensors files: read lazily and in parts.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name -> dtype, shape
and the range of its bytes after the header) and the bytes. https://github.com/huggingface/safetensors
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from llmjax.convert.tensors import Index, LazyTensor
from llmjax.errors import UserError
from llmjax.storage.bounded import size_text
from llmjax.storage.json_documents import JsonLimits, parse_json, read_json


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading in parts; a FIFO or a device is never waited for.

    Raises:
      UserError: it does not exist, is no regular file, or cannot be read.
    """
    try:
        # Opening a FIFO would wait for its writer without O_NONBLOCK.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(path, "is not a regular file", "download it again")
            yield file
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror or error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
      UserError: it does not, or is beyond the limits of `llmjax.storage.SETTINGS`, or cannot be
        read.
    """
    found = read_json(path, fix="restore the file")
    if not isinstance(found, dict):
        raise UserError(path, "is not a JSON object", "restore the file")
    return found


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
class TensorLocation:
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

    def __init__(self, stored: dict[str, TensorLocation]):
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


def read_header(path: Path) -> dict[str, TensorLocation]:
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


def _stored(path: Path, name: str, entry: Any, start: int, room: int) -> TensorLocation:
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
    return TensorLocation(path, DTYPES[code], tuple(shape), start + begin)


def _check_places(path: Path, found: dict[str, TensorLocation], start: int, room: int) -> None:
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


def _read_small(one: TensorLocation) -> np.ndarray:
    """What cannot be mapped: a scalar, or a tensor without elements."""
    with open_regular(one.path) as file:
        file.seek(one.offset)
        content = file.read(prod(one.shape) * one.dtype.itemsize)
    return np.frombuffer(content, one.dtype).reshape(one.shape).copy()


CODES = {dtype: code for code, dtype in DTYPES.items()}
SHARD_BYTES = 5_000_000_000


def write_folder(
    folder: Path, tensors: Sequence[LazyTensor], max_shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes model.safetensors; above a size several files and their index.

    Args:
      folder: where; it exists.
      tensors: in this order.
      max_shard_bytes: of tensors in a file; a single larger tensor has a file of its own.

    Raises:
      OSError: the folder cannot be written.
    """
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        write_file(folder / SINGLE, tensors)
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_file(folder / name, shard)
        where |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": sum(t.bytes for t in tensors)}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_file(path: Path, tensors: Sequence[LazyTensor]) -> None:
    """Writes one file, header first, and waits until the disk has it.

    Raises:
      OSError: it cannot be written.
    """
    header: dict[str, object] = {METADATA: {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.bytes
        header[tensor.name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            made = tensor.make()
            assert made.shape == tensor.shape, f"{tensor.name}: {made.shape}"
            made.astype(tensor.dtype, order="C", copy=False).reshape(-1).view("u1").tofile(file)
        file.flush()
        os.fsync(file.fileno())


def _shards(tensors: Sequence[LazyTensor], limit: int) -> list[list[LazyTensor]]:
    shards: list[list[LazyTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.bytes
    return shards


SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMED = "transformers_weights"
"""The field of config.json that names another file, or an index."""
SHOWN = 3
"""How many names of files a message lists."""
MOST_TENSORS = 200_000
"""Of all files together; the largest published models of the supported families have some 1,000."""


def open_folder(folder: Path, named: object = None) -> TensorFiles:
    """The tensors of a model's folder.

    Args:
      folder: has model.safetensors, or an index and the files that it names.
      named: what config.json has under `NAMED`; None where it says nothing.

    Raises:
      UserError: there are none, or a file is damaged, missing or outside of the folder.
    """
    if named is not None:
        name = _inside(folder / "config.json", named)
        if name.endswith(".safetensors.index.json"):
            return _open_shards(folder / name)
        return TensorFiles(read_header(folder / name))
    if (folder / SINGLE).is_file():
        return TensorFiles(read_header(folder / SINGLE))
    if (folder / INDEX).is_file():
        return _open_shards(folder / INDEX)
    if (folder / SINGLE).exists():
        raise UserError(folder / SINGLE, "is not a regular file", "download it again")
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        shown = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
        raise UserError(
            folder,
            f"has neither {SINGLE} nor {INDEX}, but {shown}",
            f"complete the download, or give the weights' file the name {SINGLE}",
        )
    if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
        raise UserError(
            pickled[0],
            "is a pickle, which could run any program when it is read",
            "save the model as safetensors",
        )
    raise UserError(folder, f"holds no {SINGLE}", "check that the download is complete")


def _open_shards(path: Path) -> TensorFiles:
    """The tensors of the files that an index names."""
    folder = path.parent
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(path, "has no weight_map", "restore the file")
    if len(weight_map) > MOST_TENSORS:
        raise UserError(path, f"names more than {MOST_TENSORS:,} tensors")
    found: dict[str, TensorLocation] = {}
    for shard in sorted(_names_of(path, weight_map)):
        if not (folder / shard).is_file():
            raise UserError(
                folder / shard, f"is missing, but {path.name} names it", "download it too"
            )
        for name, stored in read_header(folder / shard).items():
            if name in found:
                raise UserError(
                    f"tensor {name}", f"is both in {found[name].path.name} and in {shard}"
                )
            found[name] = stored
        if len(found) > MOST_TENSORS:
            raise UserError(path, f"names files of more than {MOST_TENSORS:,} tensors")
    for name, shard in weight_map.items():
        if name not in found or found[name].path.name != shard:
            raise UserError(f"tensor {name}", f"is not in {shard}, where {path.name} has it")
    return TensorFiles(found)


def _names_of(path: Path, weight_map: dict[str, object]) -> set[str]:
    """The files that an index names."""
    words = [name if isinstance(name, str) else _inside(path, name) for name in weight_map.values()]
    return {_inside(path, name) for name in set(words)}


def _inside(path: Path, name: object) -> str:
    """The name of a file in the folder of `path`, which says it; refused if it is a way out."""
    if not isinstance(name, str) or not name or PurePosixPath(name).name != name or "\\" in name:
        raise UserError(path, f"names the file {name!r}, which is not in its own folder")
    return name
