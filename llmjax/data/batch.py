"""Batch specs: the shape, dtype and logical axes of each array of a batch."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.parallel.mesh import Axes, check_divides, named_sharding

Arrays: TypeAlias = dict[str, np.ndarray]
"""A batch, or some of its rows, as host arrays."""
Batch: TypeAlias = Mapping[str, jax.Array]
"""A batch as device arrays."""


class ArraySpec(NamedTuple):
    """Spec of one array of a batch; its first dimension is the row."""

    shape: tuple[int, ...]
    """Global shape."""
    dtype: str
    """NumPy dtype name, such as "int32"."""
    axes: Axes
    """Logical axis of each dimension (see `parallel.mesh`)."""
    padding: int = 0
    """Fill value of padding."""

    def blank(self, rows: int) -> np.ndarray:
        """An array of `rows` rows of padding."""
        return np.full((rows, *self.shape[1:]), self.padding, self.dtype)


BatchSpec: TypeAlias = Mapping[str, ArraySpec]
"""Name -> spec. The loader and evaluation shard batches by it and attach no meaning to names."""


def per_token(rows: int, length: int, dtype: str = "int32", padding: int = 0) -> ArraySpec:
    """Spec of an array of one number per token: [rows, length], sharded along both."""
    return ArraySpec((rows, length), dtype, ("batch", "length"), padding)


def per_row(rows: int, *shape: int, dtype: str = "float32") -> ArraySpec:
    """Spec of an array [rows, *shape], sharded along its rows only."""
    return ArraySpec((rows, *shape), dtype, ("batch", *[None] * len(shape)))


def check_batch(name: str, specs: Sequence[BatchSpec], mesh: Mesh) -> None:
    """Checks that batches divide evenly over a mesh.

    Raises:
      UserError: one does not; the message calls it `name`.
    """
    for spec in specs:
        for array in spec.values():
            check_divides(name, array.shape, array.axes, mesh)


def place_batch(arrays: Arrays, spec: BatchSpec, mesh: Mesh | None) -> dict[str, jax.Array]:
    """Moves a batch to the devices of `mesh`, sharded by its spec.

    Args:
      arrays: the rows held by this process's devices, in order.
      spec: of the global batch.
      mesh: over the devices of all processes; None: the default device.
    """
    if mesh is None:
        return {name: jax.device_put(values) for name, values in arrays.items()}
    return {
        name: jax.make_array_from_process_local_data(
            named_sharding(mesh, *spec[name].axes), values, spec[name].shape
        )
        for name, values in arrays.items()
    }
