"""The order in which devices share causal rows evenly.

A row is cut into 2 n chunks for n devices, and device i holds the chunks i and 2n - 1 - i, in this
order. A query of chunk j sees the chunks up to j, so the visible pairs of chunks of a device are
(i + 1) + (2n - i) = 2n + 1, whatever i is: all devices have the same work. With one contiguous part
each, the last device would have 2n - 1 times that of the first, and the others would wait.

Rows are brought into this order at the entrance of a stack of layers, as tokens, positions and
segments, which are small, and back at its exit, as hidden states: two permutations in a step, where
an exchange around each layer's attention would move queries, keys, values and outputs of all
layers. Everything between them treats tokens alike, except attention, which knows the order; the
data and the losses never see it.
"""

from functools import partial

import jax
import jax.numpy as jnp

from llmjax.parallel import exchanges, mesh
from llmjax.parallel.mesh import Axes

LENGTH = "length"


def enter(x: jax.Array) -> jax.Array:
    """Brings [B, L, ...] from the order of rows into that of devices."""
    return _exchange(mesh.reshard(x, *_axes(x)), True)


def leave(x: jax.Array) -> jax.Array:
    """The inverse of `enter`."""
    return _exchange(mesh.reshard(x, *_axes(x)), False)


def chunk_starts(device: jax.Array | int, devices: int, size: int) -> jax.Array:
    """[2] int32: where the chunks of a device, of `size` tokens each, start in the row."""
    return jnp.stack([jnp.asarray(device), 2 * devices - 1 - jnp.asarray(device)]) * size


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _exchange(x: jax.Array, entering: bool) -> jax.Array:
    local = _local_enter if entering else _local_leave
    return mesh.per_device(local, (_axes(x),), (_axes(x),))(x)[0]


def _forward(x: jax.Array, entering: bool) -> tuple[jax.Array, None]:
    return _exchange(x, entering), None


def _backward(entering: bool, _: None, dx: jax.Array) -> tuple[jax.Array]:
    return (_exchange(dx, not entering),)


_exchange.defvjp(_forward, _backward)


def _axes(x: jax.Array) -> Axes:
    return ("batch", LENGTH, *(None,) * (x.ndim - 2))


def _targets(devices: int) -> tuple[list[int], list[int]]:
    """The devices that hold the even and the odd chunks of contiguous parts."""

    def holder(chunk: int) -> int:
        return min(chunk, 2 * devices - 1 - chunk)

    return [holder(2 * i) for i in range(devices)], [holder(2 * i + 1) for i in range(devices)]


def _local_enter(x: jax.Array) -> tuple[jax.Array]:
    first, second = jnp.split(x, 2, axis=1)
    even, odd = _targets(mesh.parts(LENGTH))
    first = exchanges.permute(first, LENGTH, even)
    second = exchanges.permute(second, LENGTH, odd)
    return (jnp.concatenate(_in_order(first, second), axis=1),)


def _local_leave(x: jax.Array) -> tuple[jax.Array]:
    first, second = _in_order(*jnp.split(x, 2, axis=1))
    even, odd = _targets(mesh.parts(LENGTH))
    first = exchanges.permute(first, LENGTH, _inverse(even))
    second = exchanges.permute(second, LENGTH, _inverse(odd))
    return (jnp.concatenate([first, second], axis=1),)


def _in_order(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Swaps the even and the odd chunk on odd devices, which hold the odd one first."""
    swap = jnp.asarray(mesh.part_index(LENGTH)) % 2 == 1
    return jnp.where(swap, second, first), jnp.where(swap, first, second)


def _inverse(targets: list[int]) -> list[int]:
    return sorted(range(len(targets)), key=targets.__getitem__)
