"""Which files of a checkpoint a process reads: the chunks of arrays that its devices hold.

Only for checkpoints with a file for each chunk, as Zarr 3 names them: ITEM/ARRAY/c/0/1, and
ITEM/ARRAY/c of a scalar. All files of others are read.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from llmjax.errors import UserError
from llmjax.storage.json_documents import read_json

Box = tuple[range, ...]
"""Indices of chunks in each dimension."""


def needed_files(checkpoint: Path, items: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether this process reads a file, by its name in the checkpoint.

    Args:
      checkpoint: RUN/checkpoints/STEP, with the descriptions of its arrays.
      items: trees of jax.ShapeDtypeStruct with shardings, as they will be restored, by item.
    """
    boxes: dict[str, list[Box]] = {}
    for item, tree in items.items():
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = f"{item}/{jax.tree_util.keystr(path, simple=True, separator='.')}"
            chunk = _chunk_shape(checkpoint / name / "zarr.json", leaf.shape)
            if chunk is not None and leaf.sharding is not None:
                boxes[name] = _boxes(leaf, chunk)

    def is_needed(file: str) -> bool:
        array, separator, rest = file.rpartition("/c/") if "/c/" in file else (file, "", "")
        index = rest.split("/") if separator else []
        if array not in boxes or not all(part.isdecimal() for part in index):
            return True
        numbers = [int(part) for part in index]
        return any(
            all(number in span for number, span in zip(numbers, box, strict=True))
            for box in boxes[array]
            if len(box) == len(numbers)
        )

    return is_needed


def _chunk_shape(description: Path, shape: tuple[int, ...]) -> list[int] | None:
    """The shape of an array's chunks; None if it has no such files or is of another shape."""
    if not description.is_file():
        return None
    try:
        array = read_json(description)
        chunk = array["chunk_grid"]["configuration"]["chunk_shape"]
        if array["shape"] != list(shape):
            return None
    except (UserError, LookupError, TypeError):
        return None
    is_shape = isinstance(chunk, list) and all(type(size) is int and size > 0 for size in chunk)
    return chunk if is_shape and len(chunk) == len(shape) else None


def _boxes(leaf: jax.ShapeDtypeStruct, chunk: list[int]) -> list[Box]:
    """The chunks that this process's devices hold."""
    assert leaf.sharding is not None
    indices = leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
    boxes: dict[tuple[tuple[int, int], ...], Box] = {}
    for index in indices:
        spans = zip(index or (), leaf.shape, strict=True)
        bounds = [part.indices(size)[:2] for part, size in spans]
        key = tuple(
            (start // size, -(-stop // size))
            for (start, stop), size in zip(bounds, chunk, strict=True)
        )
        boxes[key] = tuple(range(first, end) for first, end in key)
    return list(boxes.values())
