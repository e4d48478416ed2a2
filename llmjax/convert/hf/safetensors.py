"""Weights in safetensors: files read lazily and in parts, written tensor by tensor, and which files
of a folder they are in.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name -> dtype, shape
and the range of its bytes after the header) and the bytes. https://github.com/huggingface/safetensors
The files of a folder are chosen as by `PreTrainedModel.from_pretrained` without a variant: the one
that config.json names, or model.safetensors, or else those of model.safetensors.index.json. Others
(a variant, an adapter, another program's form of the same weights) are never read instead.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np

from llmjax.convert.hf.config import read_object, write_json
from llmjax.convert.tensors import Index, LazyTensor
from llmjax.errors import UserError
from llmjax.storage.bounded import regular_file, size_text
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
CODES = {dtype: code for code, dtype in DTYPES.items()}
HEADER = JsonLimits(size=16 << 20, marks=1_000_000, depth=4)
"""About 75,000 tensors; the largest published files have about 1,000."""
MAX_DIMENSIONS = 8
"""Of a tensor; parameters have three at most."""
MAX_NAME_LENGTH = 1_000
"""Characters of a tensor's name."""
METADATA = "__metadata__"
MAX_TENSORS = 200_000
"""Of all files together; published models of the supported families have about 1,000."""
SHARD_BYTES = 5_000_000_000
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMED = "transformers_weights"
"""The field of config.json that names another file, or an index."""
MAX_SHOWN = 3
"""File names that a message lists."""


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
        """Where its bytes end, from the start of the file."""
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
        stored = self._stored[name]
        if 0 in stored.shape or not stored.shape:
            return _read_small(stored)[index or ...]
        try:
            # Mapped for this read alone: pages of earlier tensors do not stay in memory.
            mapped = np.memmap(stored.path, stored.dtype, "r", stored.offset, stored.shape)
        except (OSError, ValueError) as error:
            raise UserError(stored.path, f"cannot be read: {error}") from error
        return np.array(mapped[index or ...])


def read_header(path: Path) -> dict[str, TensorLocation]:
    """The tensors of a file, checked against the file's size.

    As the reference implementation demands, the tensors fill all that follows the header, and no
    two share a byte.

    Raises:
      UserError: it is damaged or not a safetensors file, or its header exceeds `HEADER`.
    """
    with regular_file(path, fix="download it again") as file:
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
        raise UserError(path, "has a header that is not a JSON object", "download it again")
    header.pop(METADATA, None)
    room = size - 8 - length
    tensors = {name: _locate(path, name, entry, 8 + length, room) for name, entry in header.items()}
    _check_places(path, tensors, 8 + length, room)
    return tensors


def _locate(path: Path, name: str, entry: Any, start: int, room: int) -> TensorLocation:
    if len(name) > MAX_NAME_LENGTH:
        raise UserError(
            path, f"has a tensor whose name is longer than {MAX_NAME_LENGTH} characters"
        )
    code, shape, offsets = (
        entry.get(field) if isinstance(entry, dict) else None
        for field in ("dtype", "shape", "data_offsets")
    )
    if not (isinstance(code, str) and isinstance(shape, list) and isinstance(offsets, list)):
        raise UserError(path, f"does not locate tensor {name}", "download it again")
    if code not in DTYPES:
        raise UserError(f"tensor {name}", f"is of dtype {code[:20]}, which is not supported")
    if len(shape) > MAX_DIMENSIONS:
        raise UserError(path, f"gives tensor {name} more than {MAX_DIMENSIONS} dimensions")
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


def _check_places(path: Path, tensors: dict[str, TensorLocation], start: int, room: int) -> None:
    """Checks that tensors lie one after another, and fill the file."""
    at, before = start, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].end)):
        if tensor.offset != at:
            what = "shares bytes with" if tensor.offset < at else "leaves bytes unused behind"
            raise UserError(path, f"is damaged: tensor {name} {what} {before}", "download it again")
        at, before = tensor.end, f"tensor {name}"
    if at != start + room:
        raise UserError(
            path, f"has {start + room - at} bytes that no tensor uses", "download it again"
        )


def _truncated(size: int) -> str:
    return f"is truncated or not a safetensors file: {size} bytes do not hold its header"


def _read_small(stored: TensorLocation) -> np.ndarray:
    """What cannot be mapped: a scalar, or a tensor without elements."""
    with regular_file(stored.path, fix="download it again") as file:
        file.seek(stored.offset)
        content = file.read(prod(stored.shape) * stored.dtype.itemsize)
    return np.frombuffer(content, stored.dtype).reshape(stored.shape).copy()


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
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_file(folder / name, shard)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": sum(t.bytes for t in tensors)}, "weight_map": weight_map}
    write_json(folder / INDEX, index)


def write_file(path: Path, tensors: Sequence[LazyTensor]) -> None:
    """Writes a file, header first, and waits until it is on disk.

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
            values = tensor.make()
            assert values.shape == tensor.shape, f"{tensor.name}: {values.shape}"
            values.astype(tensor.dtype, order="C", copy=False).reshape(-1).view("u1").tofile(file)
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


def open_folder(folder: Path, named: object = None) -> TensorFiles:
    """The tensors of a model's folder.

    Args:
      folder: has model.safetensors, or an index and the files that it names.
      named: the field `NAMED` of config.json, where it has one.

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
        shown = ", ".join(others[:MAX_SHOWN]) + (", ..." if len(others) > MAX_SHOWN else "")
        raise UserError(
            folder,
            f"has neither {SINGLE} nor {INDEX}, but {shown}",
            f"complete the download, or rename the weights to {SINGLE}",
        )
    if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
        raise UserError(
            pickled[0],
            "is a pickle, which could run any program when it is read",
            "save the model as safetensors",
        )
    raise UserError(folder, f"has no {SINGLE}", "check that the download is complete")


def _open_shards(path: Path) -> TensorFiles:
    """The tensors of the files that an index names."""
    folder = path.parent
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(path, "has no weight_map", "restore the file")
    if len(weight_map) > MAX_TENSORS:
        raise UserError(path, f"names more than {MAX_TENSORS:,} tensors")
    tensors: dict[str, TensorLocation] = {}
    for shard in sorted(_names_of(path, weight_map)):
        if not (folder / shard).is_file():
            raise UserError(
                folder / shard, f"is missing, but {path.name} names it", "download it too"
            )
        for name, stored in read_header(folder / shard).items():
            if name in tensors:
                raise UserError(
                    f"tensor {name}", f"is both in {tensors[name].path.name} and in {shard}"
                )
            tensors[name] = stored
        if len(tensors) > MAX_TENSORS:
            raise UserError(path, f"names files of more than {MAX_TENSORS:,} tensors")
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise UserError(f"tensor {name}", f"is not in {shard}, where {path.name} locates it")
    return TensorFiles(tensors)


def _names_of(path: Path, weight_map: dict[str, object]) -> set[str]:
    """The files that an index names."""
    # Each distinct name is checked once: there may be 200,000 tensors.
    names = [name if isinstance(name, str) else _inside(path, name) for name in weight_map.values()]
    return {_inside(path, name) for name in set(names)}


def _inside(path: Path, name: object) -> str:
    """A file name that `path` gives, refused where it leads out of its folder."""
    if not isinstance(name, str) or not name or PurePosixPath(name).name != name or "\\" in name:
        raise UserError(path, f"names the file {name!r}, which is not in its own folder")
    return name
