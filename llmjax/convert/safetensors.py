"""safetensors files: read lazily and in parts.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name -> dtype, shape
and the range of its bytes after the header) and the bytes. https://github.com/huggingface/safetensors
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

from llmjax.convert.tensors import Index
from llmjax.errors import UserError

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
HEADER_LIMIT = 100 << 20  # bytes; that of the reference implementation
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
METADATA = "__metadata__"


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""


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


def open_folder(folder: Path) -> TensorFiles:
    """The tensors of a model's folder: model.safetensors, or the files that its index names.

    Raises:
      UserError: there are none, or a file is damaged, missing or outside of the folder.
    """
    if (folder / INDEX).is_file():
        return _open_shards(folder)
    if (folder / SINGLE).is_file():
        return TensorFiles(read_header(folder / SINGLE))
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return TensorFiles(read_header(others[0]))
    if others:
        raise UserError(folder, f"has several safetensors files, but no {INDEX}", "add it")
    if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
        raise UserError(
            pickled[0],
            "is a pickle, which could run any program when it is read",
            "save the model as safetensors",
        )
    raise UserError(folder, f"holds no {SINGLE}", "check that the download is complete")


def _open_shards(folder: Path) -> TensorFiles:
    path = folder / INDEX
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(path, "has no weight_map", "restore the file")
    found: dict[str, Stored] = {}
    for shard in sorted({_inside(path, name) for name in weight_map.values()}):
        if not (folder / shard).is_file():
            raise UserError(folder / shard, f"is missing, but {INDEX} names it", "download it too")
        for name, stored in read_header(folder / shard).items():
            if name in found:
                raise UserError(
                    f"tensor {name}", f"is both in {found[name].path.name} and in {shard}"
                )
            found[name] = stored
    for name, shard in weight_map.items():
        if name not in found or found[name].path.name != PurePosixPath(shard).name:
            raise UserError(f"tensor {name}", f"is not in {shard}, where {INDEX} has it")
    return TensorFiles(found)


def _inside(path: Path, name: object) -> str:
    """A file name of an index, refused if it is a way out of the folder."""
    if not isinstance(name, str) or not name or PurePosixPath(name).name != name or "\\" in name:
        raise UserError(path, f"names the file {name!r}, which is not in its own folder")
    return name


def read_header(path: Path) -> dict[str, Stored]:
    """What a file holds, all of it checked against the file's size.

    Raises:
      UserError: it is damaged, or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(HEADER_LIMIT, size - 8):
                raise UserError(path, _truncated(size), "download it again")
            header = json.loads(file.read(length), object_pairs_hook=_no_duplicates(path))
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(path, "has a header that is not JSON", "download it again") from error
    if not isinstance(header, dict):
        raise UserError(path, "has a header that is not an object", "download it again")
    header.pop(METADATA, None)
    return {
        name: _stored(path, name, entry, 8 + length, size - 8 - length)
        for name, entry in header.items()
    }


def _stored(path: Path, name: str, entry: Any, start: int, room: int) -> Stored:
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            path, f"does not say where tensor {name} is", "download it again"
        ) from error
    if code not in DTYPES:
        raise UserError(f"tensor {name}", f"is of dtype {code}, which {path.name} should not hold")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise UserError(path, f"gives tensor {name} sizes that are not numbers")
    if end - begin != prod(shape) * DTYPES[code].itemsize:
        raise UserError(path, f"gives tensor {name} {end - begin} bytes, but shape {list(shape)}")
    if end > room:
        raise UserError(path, f"is truncated: tensor {name} ends beyond it", "download it again")
    return Stored(path, DTYPES[code], shape, start + begin)


def _truncated(size: int) -> str:
    return f"is truncated, or no safetensors file: {size} bytes do not hold its header"


def _no_duplicates(path: Path) -> Any:
    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(path, f"holds {twice} twice", "download it again")
        return found

    return hook


def _read_small(one: Stored) -> np.ndarray:
    """What cannot be mapped: a scalar, or a tensor without elements."""
    with open(one.path, "rb") as file:
        file.seek(one.offset)
        content = file.read(prod(one.shape) * one.dtype.itemsize)
    return np.frombuffer(content, one.dtype).reshape(one.shape).copy()


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
      UserError: it does not, or cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(path, f"is not JSON: {error}", "restore the file") from error
    if not isinstance(found, dict):
        raise UserError(path, "is not a JSON object", "restore the file")
    return found
