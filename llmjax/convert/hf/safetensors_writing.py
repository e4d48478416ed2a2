"""Writing safetensors: tensors are made one by one as they are written."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from llmjax.convert.hf.safetensors import DTYPES, METADATA
from llmjax.convert.hf.weight_files import INDEX, SINGLE
from llmjax.convert.tensors import Planned

CODES = {dtype: code for code, dtype in DTYPES.items()}
SHARD_BYTES = 5_000_000_000


def write_folder(
    folder: Path, tensors: Sequence[Planned], max_shard_bytes: int = SHARD_BYTES
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


def write_file(path: Path, tensors: Sequence[Planned]) -> None:
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


def _shards(tensors: Sequence[Planned], limit: int) -> list[list[Planned]]:
    shards: list[list[Planned]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.bytes
    return shards
