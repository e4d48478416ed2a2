"""Averages of gradients as 8-bit integers, with one scale per block of neighbours.

Blocks and steps that are finer near zero follow 8-bit Adam (Dettmers et al. 2022,
arXiv:2110.02861). Instead of its table of 256 values, which accelerators look up slowly, the steps
are those of a power: with code c from 0 to 127, an average of gradients is scale (c / 127)^2 with a
sign; with c from 0 to 255, one of their squares is scale ((c + 1) / 256)^4. The latter is never
zero, since Adam divides by its root (Li et al. 2023, arXiv:2309.01507, section 4.1).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from llmjax.parallel import mesh

BLOCK = 128
"""Most numbers that share a scale: 4 bytes, so 1.03 bytes per number."""

MIN_BLOCK = 8
"""With fewer numbers, scales would take more than half as much as the numbers."""

MIN_SIZE = 4096
"""Smaller arrays stay as they are: norms and biases, which take little."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blockwise:
    """An array of float32 as 8-bit codes."""

    values: jax.Array
    """[..., N] as the array: int8, codes with a sign; or uint8, codes of squares."""
    scale: jax.Array
    """float32 [..., blocks], split like the array: the largest magnitude of each block."""

    @property
    def is_square(self) -> bool:
        """Whether these are averages of squares, which are not negative."""
        return self.values.dtype == jnp.uint8

    def decode(self) -> jax.Array:
        """The array, float32, also where blocks cross devices, whose scales are then not split."""
        size = self.values.shape[-1] // self.scale.shape[-1]
        codes = self.values.astype(jnp.float32)
        sizes = _value(jnp.abs(codes), self.is_square)
        spec = mesh.spec_of(self.values)
        if spec == mesh.spec_of(self.scale):
            sizes = (_blocks(sizes, size) * self.scale[..., None]).reshape(sizes.shape)
        else:
            block = jnp.arange(sizes.shape[-1]) // size
            sizes = sizes * self.scale.at[..., block].get(out_sharding=spec)
        return jnp.where(codes < 0, -sizes, sizes)


def block_size(x: jax.Array) -> int | None:
    """Numbers along the last axis that share a scale, all on one device; None: x has no blocks.

    It depends on the mesh only where a device holds fewer than `BLOCK`, or not a multiple of it.
    """
    if not x.ndim or x.size < MIN_SIZE:
        return None
    shape = jax.typeof(x).sharding.shard_shape(x.shape) if mesh.has_shardings() else x.shape
    length = shape[-1]
    found = next(size for size in range(min(BLOCK, length), 0, -1) if length % size == 0)
    return found if found >= MIN_BLOCK else None


def encode(x: jax.Array, is_square: bool, key: jax.Array | None = None) -> Blockwise | jax.Array:
    """Rounds an array; returns it as it is if it has no blocks.

    Args:
      x: float32 [..., N].
      is_square: whether x is an average of squares.
      key: for stochastic rounding, whose expected value is x (for squares, but those below the
        smallest code); None: to nearest.
    """
    size = block_size(x)
    if size is None:
        return x
    blocks = _blocks(x, size)
    scale = jnp.abs(blocks).max(-1)
    share = jnp.abs(blocks) / jnp.where(scale > 0, scale, 1)[..., None]
    if key is None:
        chance: jax.Array | float = 0.5
    else:
        bits = jax.random.bits(key, x.shape, jnp.uint16, out_sharding=mesh.spec_of(x))
        chance = _blocks(bits, size).astype(jnp.float32) / 2**16
    low = _code_below(share, is_square)
    below, above = _value(low, is_square), _value(low + 1, is_square)
    codes = low + ((share - below) > chance * (above - below))
    signed = codes if is_square else jnp.where(blocks < 0, -codes, codes)
    values = signed.astype(jnp.uint8 if is_square else jnp.int8).reshape(x.shape)
    return Blockwise(values, scale)


def _blocks(x: jax.Array, size: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def _value(code: jax.Array, is_square: bool) -> jax.Array:
    """What a code stands for, as a share of the scale."""
    return jnp.square(jnp.square((code + 1) / 256)) if is_square else jnp.square(code / 127)


def _code_below(share: jax.Array, is_square: bool) -> jax.Array:
    """The largest code whose value is at most a share of the scale; at least 0."""
    if not is_square:
        return jnp.floor(127 * jnp.sqrt(share))
    return jnp.maximum(jnp.floor(256 * jnp.sqrt(jnp.sqrt(share))) - 1, 0)
