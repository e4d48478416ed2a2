"""Tables of vectors looked up by index: tokens (split over the vocabulary), learned positions."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.model.layers import Layout, normal
from llmjax.model.products import gather
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes


class Table(nnx.Module):
    """Learned rows, [size, width]."""

    def __init__(
        self, size: int, width: int, axes: Axes, *, std: float, dtype: str, rngs: nnx.Rngs
    ):
        self.rows = normal(rngs, (size, width), axes, std)
        self.axes, self.dtype = axes, dtype

    def __call__(self, index: jax.Array, layout: Layout) -> jax.Array:
        """[B, L] int32 -> [B, L, width] in the compute dtype, split like the residual stream."""
        return _look_up(self.rows[...], index, self.axes, layout, self.dtype)


# The derivative is written out so that it is summed in float32 whatever the compute dtype, and so
# that each device adds up only its own rows of the table before the sums meet.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _look_up(
    rows: jax.Array, index: jax.Array, axes: Axes, layout: Layout, dtype: str
) -> jax.Array:
    spec = mesh.out_sharding(*layout.stream())
    return gather(rows, axes, dtype).at[index].get(mode="clip", out_sharding=spec)


def _look_up_forward(
    rows: jax.Array, index: jax.Array, axes: Axes, layout: Layout, dtype: str
) -> tuple[jax.Array, tuple]:
    return _look_up(rows, index, axes, layout, dtype), (rows, index)


def _look_up_backward(
    axes: Axes, layout: Layout, dtype: str, saved: tuple, dx: jax.Array
) -> tuple[jax.Array, None]:
    rows, index = saved
    size, width = rows.shape[0] // mesh.parts(axes[0]), rows.shape[1]

    def local(index: jax.Array, dx: jax.Array) -> tuple[jax.Array]:
        place = index - size * mesh.part_index(axes[0])
        place = jnp.where((place >= 0) & (place < size), place, size)  # size: another device's row
        sums = jnp.zeros((size, width), jnp.float32).at[place].add(dx, mode="drop")
        return (mesh.reduce_scatter(sums, ("batch", layout.length), axes),)

    whole = layout.whole()
    return mesh.per_device(local, (whole[:2], whole), (axes,))(index, dx)[0], None


_look_up.defvjp(_look_up_forward, _look_up_backward)
