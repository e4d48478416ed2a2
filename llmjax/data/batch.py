"""What a batch holds: the shape, dtype and logical axes of each array."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.parallel.mesh import Axes, check_divides, named_sharding

Arrays: TypeAlias = dict[str, np.ndarray]
"""A batch, or some of its rows, on the host."""
Batch: TypeAlias = Mapping[str, jax.Array]
"""A batch on the devices."""


class ArraySpec(NamedTuple):
    """One array of a batch; its first dimension is the row."""

    shape: tuple[int, ...]
    """Of the global array."""
    dtype: str
    """NumPy's name, as "int32"."""
    axes: Axes
    """Logical axes, one a dimension (see `parallel.mesh`)."""
    padding: int = 0
    """What stands where a row holds nothing."""

    def blank(self, rows: int) -> np.ndarray:
        """So many rows that hold nothing."""
        return np.full((rows, *self.shape[1:]), self.padding, self.dtype)


BatchSpec: TypeAlias = Mapping[str, ArraySpec]
"""Name -> array. The loader and evaluation lay batches out by it; names mean nothing to them."""


def per_token(rows: int, length: int, dtype: str = "int32", padding: int = 0) -> ArraySpec:
    """An array with a number for each token: [rows, length], split over both."""
    return ArraySpec((rows, length), dtype, ("batch", "length"), padding)


def per_row(rows: int, *shape: int, dtype: str = "float32") -> ArraySpec:
    """An array [rows, *shape] that is split over its rows alone."""
    return ArraySpec((rows, *shape), dtype, ("batch", *[None] * len(shape)))


def check_batch(name: str, specs: Sequence[BatchSpec], mesh: Mesh) -> None:
    """Checks that batches divide over a mesh.

    Raises:
      UserError: one does not; it is called `name` there.
    """
    for spec in specs:
        for array in spec.values():
            check_divides(name, array.shape, array.axes, mesh)


def place_batch(arrays: Arrays, spec: BatchSpec, mesh: Mesh | None) -> dict[str, jax.Array]:
    """The arrays on the devices of `mesh` by their spec; None: on the default device.

    Args:
      arrays: on the host, the rows that this process's devices hold, in order.
      spec: of the global batch.
      mesh: of all processes' devices.
    """
    if mesh is None:
        return {name: jax.device_put(values) for name, values in arrays.items()}
    return {
        name: jax.make_array_from_process_local_data(
            named_sharding(mesh, *spec[name].axes), values, spec[name].shape
        )
        for name, values in arrays.items()
    }
