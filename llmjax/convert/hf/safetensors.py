"""safetensors: files read lazily and in parts, written tensor by tensor, and sharded folders.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name -> dtype, shape,
byte range after the header) and the data. https://github.com/huggingface/safetensors
The files of a folder are chosen as in `PreTrainedModel.from_pretrained` without a variant: the one
that config.json names, else model.safetensors, else those of model.safetensors.index.json. Other
files (a variant, an adapter, another program's copy of the weights) are never used instead.
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
"""Enough for about 75,000 tensors; the largest published files have about 1,000."""
MAX_DIMENSIONS = 8
"""Of a tensor; parameters have at most three."""
MAX_NAME_LENGTH = 1_000
"""Characters of a tensor's name."""
METADATA = "__metadata__"
MAX_TENSORS = 200_000
"""In all files of a model; published models of the supported families have about 1,000."""
SHARD_BYTES = 5_000_000_000
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMED = "transformers_weights"
"""Field of config.json that names the weights file or index."""
MAX_SHOWN = 3
"""File names listed in a message."""


@dataclass(frozen=True)
class TensorLocation:
    """The location of a tensor in a file."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""

    @property
    def end(self) -> int:
        """End of its bytes, from the start of the file."""
        return self.offset + prod(self.shape) * self.dtype.itemsize


class TensorFiles:
    """A `TensorSource` of one or several files."""

    def __init__(self, locations: dict[str, TensorLocation]):
        self._locations = locations

    def names(self) -> list[str]:
        return list(self._locations)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._locations[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self._locations[name].dtype

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        tensor = self._locations[name]
        if 0 in tensor.shape or not tensor.shape:
            return _read_unmapped(tensor)[index or ...]
        try:
            # A new mapping per read, so that pages of earlier tensors do not stay in memory.
            mapped = np.memmap(tensor.path, tensor.dtype, "r", tensor.offset, tensor.shape)
        except (OSError, ValueError) as error:
            raise UserError(tensor.path, f"cannot be read: {error}") from error
        return np.array(mapped[index or ...])


def read_header(path: Path) -> dict[str, TensorLocation]:
    """Locate the tensors of a file, checked against the file's size.

    As in the reference implementation, tensors must cover all bytes after the header without
    overlap.

    Raises:
      UserError: the file is damaged or not safetensors, or its header exceeds `HEADER`.
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
    start, data_size = 8 + length, size - 8 - length
    tensors = {name: _locate(path, name, entry, start, data_size) for name, entry in header.items()}
    _check_coverage(path, tensors, start, data_size)
    return tensors


def _locate(path: Path, name: str, entry: Any, start: int, data_size: int) -> TensorLocation:
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
        raise UserError(path, f"gives tensor {name} sizes that are not numbers of at least 0")
    if prod(length for length in shape if length) >= 2**63:
        raise UserError(path, f"gives tensor {name} a shape of more than 2**63 elements")
    if end - begin != prod(shape) * DTYPES[code].itemsize:
        raise UserError(path, f"gives tensor {name} {end - begin} bytes, but shape {shape}"[:300])
    if end > data_size:
        raise UserError(
            path, f"is truncated: tensor {name} extends past its end", "download it again"
        )
    return TensorLocation(path, DTYPES[code], tuple(shape), start + begin)


def _check_coverage(
    path: Path, tensors: dict[str, TensorLocation], start: int, data_size: int
) -> None:
    """Check that the tensors cover the file without gaps or overlap."""
    position, previous = start, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].end)):
        if tensor.offset != position:
            what = "overlaps" if tensor.offset < position else "leaves unused bytes after"
            reason = f"is damaged: tensor {name} {what} {previous}"
            raise UserError(path, reason, "download it again")
        position, previous = tensor.end, f"tensor {name}"
    if position != start + data_size:
        unused = start + data_size - position
        raise UserError(path, f"has {unused} bytes that no tensor uses", "download it again")


def _truncated(size: int) -> str:
    return f"is truncated or not a safetensors file: {size} bytes do not hold its header"


def _read_unmapped(tensor: TensorLocation) -> np.ndarray:
    """Read a scalar or an empty tensor, which np.memmap does not support."""
    with regular_file(tensor.path, fix="download it again") as file:
        file.seek(tensor.offset)
        content = file.read(prod(tensor.shape) * tensor.dtype.itemsize)
    return np.frombuffer(content, tensor.dtype).reshape(tensor.shape).copy()


def write_folder(
    folder: Path, tensors: Sequence[LazyTensor], max_shard_bytes: int = SHARD_BYTES
) -> None:
    """Write model.safetensors, or several shards and their index.

    Args:
      folder: an existing folder.
      tensors: in the order to write them.
      max_shard_bytes: bytes of tensors per file; a larger tensor gets a file to itself.

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
    """Write a file and flush it to disk.

    Raises:
      OSError: the file cannot be written.
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
    text += b" " * (-len(text) % 8)  # aligns the data
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
    """Locate the tensors of a model's folder.

    Args:
      folder: has model.safetensors, or an index and the files that it names.
      named: value of the field `NAMED` of config.json, if it has one.

    Raises:
      UserError: there are no weights, or a file is damaged, missing or outside of the folder.
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
    if files := sorted(path.name for path in folder.glob("*.safetensors")):
        shown = ", ".join(files[:MAX_SHOWN]) + (", ..." if len(files) > MAX_SHOWN else "")
        raise UserError(
            folder,
            f"has neither {SINGLE} nor {INDEX}, but {shown}",
            f"complete the download, or rename the weights to {SINGLE}",
        )
    if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
        raise UserError(
            pickled[0],
            "is a pickle, which can execute code when it is loaded",
            "save the model as safetensors",
        )
    raise UserError(folder, f"has no {SINGLE}", "check that the download is complete")


def _open_shards(path: Path) -> TensorFiles:
    """Locate the tensors of the files that an index names."""
    folder = path.parent
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(path, "has no weight_map", "restore the file")
    if len(weight_map) > MAX_TENSORS:
        raise UserError(path, f"names more than {MAX_TENSORS:,} tensors")
    tensors: dict[str, TensorLocation] = {}
    for shard in sorted(_shard_names(path, weight_map)):
        if not (folder / shard).is_file():
            raise UserError(
                folder / shard, f"is missing, but {path.name} names it", "download it too"
            )
        for name, location in read_header(folder / shard).items():
            if name in tensors:
                raise UserError(
                    f"tensor {name}", f"is both in {tensors[name].path.name} and in {shard}"
                )
            tensors[name] = location
        if len(tensors) > MAX_TENSORS:
            raise UserError(path, f"names files of more than {MAX_TENSORS:,} tensors")
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise UserError(f"tensor {name}", f"is not in {shard}, where {path.name} locates it")
    return TensorFiles(tensors)


def _shard_names(path: Path, weight_map: dict[str, object]) -> set[str]:
    """The files that an index names."""
    # There may be 200,000 tensors: check each distinct name once.
    names = [name if isinstance(name, str) else _inside(path, name) for name in weight_map.values()]
    return {_inside(path, name) for name in set(names)}


def _inside(path: Path, name: object) -> str:
    """Check that a file name given in `path` stays in the folder of `path`."""
    if not isinstance(name, str) or not name or PurePosixPath(name).name != name or "\\" in name:
        raise UserError(path, f"names the file {name!r}, which is not in its own folder")
    return name
