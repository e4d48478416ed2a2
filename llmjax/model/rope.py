"""Rotary positions (arXiv:2104.09864), and frequency scaling for texts longer than in training."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.parallel import mesh

FAR = 2**17
"""Longest texts of a model whose angles are plain products of position and frequency."""
SPAN = 1024
"""Positions whose rotation is reduced to less than a turn, for longer texts."""


@dataclass(frozen=True)
class Unscaled:
    """Pair i of n rotates by theta^(-i/n) per position."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor (arXiv:2306.15595)."""

    factor: float
    """Factor by which texts become longer."""
    kind: Literal["linear"] = "linear"


@dataclass(frozen=True)
class Llama3Scaling:
    """Divides low frequencies, keeps high ones, interpolates in between (arXiv:2407.21783)."""

    factor: float
    """Divisor of low frequencies."""
    original_length: int
    """Longest text of the original training."""
    low_frequency_factor: float = 1.0
    """Pairs with fewer turns than this over the original length are divided."""
    high_frequency_factor: float = 4.0
    """Pairs with more turns are kept."""
    kind: Literal["llama3"] = "llama3"


@dataclass(frozen=True)
class YarnScaling:
    """YaRN: interpolates frequencies by their turns, scales attention (arXiv:2309.00071)."""

    factor: float
    """Factor by which texts become longer."""
    original_length: int
    """Longest text of the original training."""
    beta_fast: float = 32.0
    """Number of turns over the original length from which a pair is kept."""
    beta_slow: float = 1.0
    """Number of turns up to which a pair is divided."""
    attention_factor: float | None = None
    """Multiplies queries and keys; None: m(mscale) / m(mscale_all_dim) where both are given, else
    m(1), with m(x) = 0.1 x ln(factor) + 1."""
    mscale: float | None = None
    """Of the attention factor."""
    mscale_all_dim: float | None = None
    """Of the attention factor; in latent attention, scores are also multiplied by its m(x)^2."""
    truncate: bool = True
    """Whether the bounds of the interpolation are rounded to pairs."""
    kind: Literal["yarn"] = "yarn"


@dataclass(frozen=True)
class LongRopeScaling:
    """LongRoPE: a searched divisor for each pair (arXiv:2402.13753).

    In models for texts longer than the original, a text's own length decides between the lists:
    that of a prompt is its length with what is generated at most, so that both agree.
    """

    short_factors: tuple[float, ...]
    """Divisors of pairs for texts up to the original length."""
    long_factors: tuple[float, ...]
    """Divisors for longer texts."""
    original_length: int
    """Longest text of the original training."""
    attention_factor: float | None = None
    """Multiplies queries and keys; None: sqrt(1 + ln(factor) / ln(original length)), where
    factor is max_length / original_length."""
    by_length: bool = True
    """Whether a text's length decides; else that of the model decides for all of its texts."""
    kind: Literal["longrope"] = "longrope"


@dataclass(frozen=True)
class DynamicScaling:
    """NTK-aware: a larger base in models for texts longer than in training, such that the last pair
    turns as often over them as with positions divided (arXiv:2309.00071, section 3.1).

    The base follows from the model's max_length, whatever the length of a text.
    """

    factor: float
    """Factor by which positions would be divided in texts of twice the original length, less 1."""
    original_length: int
    """Longest text of the original training; no effect up to it."""
    kind: Literal["dynamic"] = "dynamic"


RopeScaling = (
    Unscaled | LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling | DynamicScaling
)


def rope_frequencies(
    scaling: RopeScaling, theta: float, width: int, max_length: int
) -> tuple[np.ndarray, float]:
    """Returns the rotation of each pair per position, and the factor of queries and keys.

    Args:
      scaling: how frequencies are scaled.
      theta: base; unscaled, pair i rotates by theta^(-2i/width).
      width: rotated dimensions of a head.
      max_length: of the model.

    Returns:
      float32 [width / 2] in radians, and a factor.
    """
    half = width // 2
    plain = theta ** (-np.arange(half, dtype=np.float64) / half)
    factor = 1.0
    match scaling:
        case Unscaled():
            scaled = plain
        case LinearScaling():
            scaled = plain / scaling.factor
        case Llama3Scaling():
            scaled = _llama3(scaling, plain)
        case YarnScaling():
            scaled, factor = _yarn(scaling, plain, theta, width)
        case LongRopeScaling():
            scaled, factor = _longrope(scaling, plain, max_length)
        case DynamicScaling():
            stretch = max(max_length / scaling.original_length, 1.0)
            larger = scaling.factor * stretch - (scaling.factor - 1.0)
            power = width / (width - 2) if width > 2 else 0.0
            scaled = (theta * larger**power) ** (-np.arange(half, dtype=np.float64) / half)
    return scaled.astype(np.float32), factor


def short_frequencies(
    scaling: RopeScaling, theta: float, width: int, max_length: int
) -> np.ndarray | None:
    """As `rope_frequencies`, for texts up to the original length; None where those are the same."""
    if not isinstance(scaling, LongRopeScaling) or not scaling.by_length:
        return None
    if max_length <= scaling.original_length:
        return None
    short = replace(scaling, long_factors=scaling.short_factors)
    return rope_frequencies(short, theta, width, max_length)[0]


def text_lengths(positions: jax.Array) -> jax.Array:
    """The length of each token's text, [B, L] int32.

    Args:
      positions: [B, L] int32; those of a text follow each other.
    """
    index = jnp.arange(positions.shape[1])
    follows = positions[:, 1:] == positions[:, :-1] + 1
    last = jnp.pad(~follows, ((0, 0), (0, 1)), constant_values=True)
    ends = jax.lax.cummin(jnp.where(last, index + 1, positions.shape[1]), axis=1, reverse=True)
    return positions + ends - index


def _llama3(scaling: Llama3Scaling, plain: np.ndarray) -> np.ndarray:
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    turns = scaling.original_length * plain / (2 * math.pi)
    if low == high:  # nothing in between (Llama 4)
        return np.where(turns < low, plain / scaling.factor, plain)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return kept * plain + (1 - kept) * plain / scaling.factor


def _yarn(
    scaling: YarnScaling, plain: np.ndarray, theta: float, width: int
) -> tuple[np.ndarray, float]:
    def pair(turns: float) -> float:
        """The (fractional) pair that turns this often over the original length."""
        lengths = scaling.original_length / (turns * 2 * math.pi)
        return width * math.log(lengths) / (2 * math.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    last = last + 0.001 if first == last else last
    divided = np.clip((np.arange(len(plain)) - first) / (last - first), 0.0, 1.0)
    scaled = divided * plain / scaling.factor + (1 - divided) * plain
    factor = scaling.attention_factor
    if factor is None and scaling.mscale and scaling.mscale_all_dim:
        factor = _mscale(scaling, scaling.mscale) / _mscale(scaling, scaling.mscale_all_dim)
    return scaled, _mscale(scaling, 1.0) if factor is None else factor


def _mscale(scaling: YarnScaling, weight: float) -> float:
    return 0.1 * weight * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0


def score_factor(scaling: RopeScaling) -> float:
    """The factor of latent attention's scores, besides the scale (DeepSeek-V2's code for YaRN)."""
    if isinstance(scaling, YarnScaling) and scaling.mscale_all_dim:
        return _mscale(scaling, scaling.mscale_all_dim) ** 2
    return 1.0


def _longrope(
    scaling: LongRopeScaling, plain: np.ndarray, max_length: int
) -> tuple[np.ndarray, float]:
    stretch = max_length / scaling.original_length
    factors = scaling.long_factors if stretch > 1 else scaling.short_factors
    return plain / np.asarray(factors, np.float64), attention_factor(scaling, max_length)


def attention_factor(scaling: LongRopeScaling, max_length: int) -> float:
    """What multiplies queries and keys in a model for texts of this length."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    stretch = max_length / scaling.original_length
    grown = math.log(stretch) / math.log(scaling.original_length) if stretch > 1 else 0.0
    return math.sqrt(1 + grown)


def rotate(
    x: jax.Array,
    positions: jax.Array,
    frequencies: np.ndarray,
    factor: float = 1.0,
    *,
    far: bool = False,
    interleaved: bool = False,
    short: np.ndarray | None = None,
    is_long: jax.Array | None = None,
) -> jax.Array:
    """Rotates the first 2 n dimensions of each head; dimension i is paired with i + n.

    Interleaved, 2 i is paired with 2 i + 1; the results are in the order of the former, the same
    for queries and keys.

    Args:
      x: [B, L, H, K] queries or keys.
      positions: [B, L] int32.
      frequencies: [n] radians per position, from `rope_frequencies`.
      factor: multiplies the rotated dimensions.
      far: whether positions go beyond `FAR`, where float32 angles are too coarse.
      interleaved: whether pairs are neighbours.
      short: [n] frequencies of tokens that are not `is_long`; None: the same.
      is_long: [B, L] bool.
    """
    half = len(frequencies)
    angle = _angles(positions[..., None, None], frequencies, far)
    if short is not None and is_long is not None:
        other = _angles(positions[..., None, None], short, far)
        angle = jnp.where(is_long[..., None, None], angle, other)
    sin, cos = jnp.sin(angle) * factor, jnp.cos(angle) * factor
    if mesh.platform() == "tpu" and x.dtype == jnp.bfloat16 and not interleaved:
        return turned_by_product(x, sin, cos)
    a, b, rest = jnp.split(x.astype(jnp.float32), (half, 2 * half), axis=-1)
    if interleaved:
        pairs = jnp.concatenate([a, b], axis=-1)
        a, b = pairs[..., 0::2], pairs[..., 1::2]
    rotated = [a * cos - b * sin, b * cos + a * sin]
    if rest.shape[-1]:
        rotated.append(rest)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


@jax.custom_vjp
def turned_by_product(x: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """Rotates as `rotate` does, with a product that exchanges the halves, exactly in bfloat16.

    A TPU would write halves of 64 into rows of 128 lanes, half of them empty, and put them together
    afterwards: for the queries of Llama 8B on a v5e, 8.7e6 of the compiler's cycles a layer with
    their projection instead of 6.1e6.

    Args:
      x: [B, L, H, K], bfloat16.
      sin: [B, L, 1, n] float32, times a factor; no derivative.
      cos: as `sin`.
    """
    half, width = sin.shape[-1], x.shape[-1]
    exchange = np.zeros((width, width), np.float32)
    first = np.arange(half)
    exchange[first + half, first], exchange[first, first + half] = -1, 1
    other = jax.lax.dot_general(
        x,
        jnp.asarray(exchange, x.dtype),
        (((3,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    rest = ((0, 0),) * 3 + ((0, width - 2 * half),)
    cos = jnp.pad(jnp.concatenate([cos, cos], -1), rest, constant_values=1)
    sin = jnp.pad(jnp.concatenate([sin, sin], -1), rest)
    return (x.astype(jnp.float32) * cos + other * sin).astype(x.dtype)


def _turned_forward(x: jax.Array, sin: jax.Array, cos: jax.Array) -> tuple[jax.Array, tuple]:
    return turned_by_product(x, sin, cos), (sin, cos)


def _turned_backward(saved: tuple, dy: jax.Array) -> tuple:
    sin, cos = saved
    return turned_by_product(dy, -sin, cos), None, None


turned_by_product.defvjp(_turned_forward, _turned_backward)


def _angles(positions: jax.Array, frequencies: np.ndarray, far: bool) -> jax.Array:
    """Angles of positions, modulo full turns, float32.

    A million radians have steps of 0.06 in float32. Far positions are therefore split: a whole
    number of `SPAN`s, each of which turns by less than a full turn, reduced in float64, and a rest.
    """
    if not far:
        return positions.astype(jnp.float32) * frequencies
    turns = np.fmod(np.float64(SPAN) * frequencies, 2 * math.pi).astype(np.float32)
    spans, rest = (x.astype(jnp.float32) for x in jnp.divmod(positions, SPAN))
    return spans * turns + rest * frequencies
