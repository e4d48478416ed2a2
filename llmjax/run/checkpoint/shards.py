"""The pieces of a sharded tree: which process holds which, and what others can replace."""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Piece:
    """One distinct shard of a leaf."""

    name: str
    """The leaf's path and the shard's bounds."""
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


class Shards:
    """The layout of a tree over processes; a pure function of shapes, dtypes and shardings."""

    def __init__(self, tree: Any):
        """Args:
        tree: jax.Array or jax.ShapeDtypeStruct leaves, with shardings of the same mesh.
        """
        self._tree = tree
        self._pieces: dict[str, Piece] = {}
        self._holders: dict[str, set[int]] = {}
        for path, leaf in jax.tree.leaves_with_path(tree):
            for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
                piece = _piece(jax.tree_util.keystr(path), leaf, index)
                self._pieces[piece.name] = piece
                self._holders.setdefault(piece.name, set()).add(device.process_index)

    @property
    def fingerprint(self) -> int:
        """CRC-32 of all pieces and of the processes that hold them."""
        layout = [
            (name, str(self._pieces[name].dtype), sorted(holders))
            for name, holders in sorted(self._holders.items())
        ]
        return zlib.crc32(repr((jax.process_count(), layout)).encode())

    def is_complete(self, processes: Iterable[int]) -> bool:
        """Whether these processes together hold all pieces."""
        have = set(processes)
        return all(holders & have for holders in self._holders.values())

    def needs(self, name: str) -> bool:
        """Whether this process's devices hold a piece."""
        return jax.process_index() in self._holders[name]

    @property
    def local_bytes(self) -> int:
        """Bytes of the pieces that this process's devices hold."""
        return sum(piece.nbytes for name, piece in self._pieces.items() if self.needs(name))

    def lost(self, readers: Mapping[int, int]) -> Iterator[tuple[int, Piece]]:
        """The pieces that a process needs and does not read itself, in the same order everywhere,
        each with a process that does.

        Args:
          readers: the processes whose pieces are at hand, each with the process that reads them.
        """
        for name, holders in sorted(self._holders.items()):
            have = {readers[process] for process in holders if process in readers}
            if holders - have:
                yield min(have), self._pieces[name]

    def copy_local(self) -> dict[str, np.ndarray]:
        """Copies of this process's pieces, by name: training may reuse the devices' buffers."""
        copies: dict[str, np.ndarray] = {}
        for path, leaf in jax.tree.leaves_with_path(self._tree):
            for shard in leaf.addressable_shards:
                name = _piece(jax.tree_util.keystr(path), leaf, shard.index).name
                if name not in copies:
                    copies[name] = np.array(shard.data, copy=True, order="C")
        return copies

    def place(self, pieces: Mapping[str, np.ndarray]) -> Any:
        """The tree, of this process's pieces by name, on the devices."""

        def place(path: Any, leaf: Any) -> jax.Array:
            name = jax.tree_util.keystr(path)
            return jax.make_array_from_callback(
                leaf.shape, leaf.sharding, lambda index: pieces[_piece(name, leaf, index).name]
            )

        return jax.tree_util.tree_map_with_path(place, self._tree)


def _piece(path: str, leaf: Any, index: tuple[slice, ...] | None) -> Piece:
    bounds = [part.indices(size)[:2] for part, size in zip(index or (), leaf.shape, strict=True)]
    where = ",".join(f"{start}:{end}" for start, end in bounds)
    shape = tuple(end - start for start, end in bounds)
    return Piece(f"{path} [{where}]", shape, np.dtype(leaf.dtype))
