"""Basic layers: parameters, projections, norms, embeddings, positions, dropout."""

from dataclasses import dataclass
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llmjax.model import products, quantized_products
from llmjax.model.compute import ContextMethod, Precision, Quantization
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig, Target
from llmjax.model.quantized import Quantized, Weight
from llmjax.parallel import exchanges, mesh
from llmjax.parallel.mesh import Axes


@dataclass(frozen=True)
class ActivationSharding:
    """How activations are split along the length: the logical axes of their second dimension.

    In training, rows are split over the sequence axis, and the residual stream over the tensor axis
    as well; single-token decoding splits neither.
    """

    length: str | None = "length"
    residual: str | None = "residual"
    context: ContextMethod = "gather"
    """How queries of self-attention meet the keys of other devices."""
    zigzag: bool = False
    """Whether rows are in the order of `attention.zigzag`."""

    def stream(self) -> Axes:
        """Axes of the residual stream, [B, L, D]."""
        return ("batch", self.residual, None)

    def gathered(self) -> Axes:
        """Axes of projection inputs, [B, L, D]: the residual stream gathered over tensor."""
        return ("batch", self.length, None)

    def heads(self, heads: str = "heads") -> Axes:
        """Axes of queries (or, with "kv_heads", keys and values), [B, L, H, K]."""
        return ("batch", self.length, heads, "head_dim")

    def mlp(self) -> Axes:
        """Axes of the MLP's inner activations, [B, L, F]."""
        return ("batch", self.length, "mlp")


TRAIN = ActivationSharding()
DECODE = ActivationSharding(None, None)


def normal(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    axes: Axes,
    std: float,
    inner: tuple[int, ...] | None = None,
) -> nnx.Param:
    """Creates a float32 parameter from N(0, std^2), with its sharding; `inner` as of ParamSpec."""
    draw = jax.random.normal(rngs.params(), shape, out_sharding=mesh.out_sharding(*axes))
    return nnx.Param(std * draw, axes=axes, inner=inner)


def constant(value: float, shape: tuple[int, ...], axes: Axes) -> nnx.Param:
    """Creates a float32 parameter filled with `value`."""
    full = jnp.full(shape, value, jnp.float32, out_sharding=mesh.out_sharding(*axes))
    return nnx.Param(full, axes=axes)


class Dense(nnx.Module):
    """A projection: kernel [*inner, *outer], optional bias [*outer].

    With an adapter also lora_a [*inner, rank] and lora_b [rank, *outer].
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: Axes,
        *,
        bias: bool,
        std: float,
        precision: Precision,
        rngs: nnx.Rngs,
        outer: int = 1,
        lora: LoraConfig | None = None,
        name: str | None = None,
    ):
        """`name` is the checkpoint name of the result, for remat policies."""
        self.name = name
        self.kernel = normal(rngs, shape, axes, std, tuple(range(-len(shape), -outer)))
        self.axes, self.precision, self.lora = axes, precision, lora
        self.quantization: Quantization | None = None
        # One bias per output, split like the output: never over "embed".
        outer_axes = tuple(None if axis == "embed" else axis for axis in axes[-outer:])
        if bias:
            self.bias = constant(0.0, shape[-outer:], outer_axes)
        self.has_bias = bias
        if lora is not None:
            inner = shape[:-outer]
            # PyTorch's default initialization, as in the paper's code.
            a_std = (3 * prod(inner)) ** -0.5
            self.a_axes, self.b_axes = (*axes[:-outer], None), (None, *outer_axes)
            self.lora_a = normal(rngs, (*inner, lora.rank), self.a_axes, a_std)
            self.lora_b = constant(0.0, (lora.rank, *shape[-outer:]), self.b_axes)

    def __call__(self, x: jax.Array, out: Axes) -> jax.Array:
        """[B, L, *inner] -> [B, L, *outer] with logical axes `out`, in the compute dtype."""
        bias = self.bias[...] if self.has_bias else None
        y = self._multiplied(x, self.kernel.get_value(), bias, out)
        if self.lora is not None:
            y = y + jnp.asarray(self.lora.scale, y.dtype) * self._adapted(x, out)
        return y if self.name is None else checkpoint_name(y, self.name)

    def _multiplied(
        self,
        x: jax.Array,
        kernel: Weight | quantized_products.Kernel,
        bias: jax.Array | None,
        out: Axes,
    ) -> jax.Array:
        """x kernel + bias, of quantized operands where the config says so."""
        axes, precision, quantization = self.axes, self.precision, self.quantization
        if quantization is None or isinstance(kernel, Quantized):
            assert not isinstance(kernel, quantized_products.Kernel)
            return products.dense(x, kernel, bias, axes=axes, out=out, precision=precision)
        return quantized_products.dense(
            x, kernel, bias, axes=axes, out=out, precision=precision, quantization=quantization
        )

    def weight(self) -> jax.Array:
        """The kernel with its adapter, gathered, in the compute dtype, for other products."""
        dtype = self.precision.dtype
        stored = self.kernel.get_value()
        if isinstance(stored, quantized_products.Kernel):
            stored = stored.stored
        kernel = products.gather(stored, self.axes, dtype)
        if self.lora is None:
            return kernel
        a = products.gather(self.lora_a[...], self.a_axes, dtype)
        b = products.gather(self.lora_b[...], self.b_axes, dtype)
        added = jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)
        return kernel + jnp.asarray(self.lora.scale, dtype) * added

    def _adapted(self, x: jax.Array, out: Axes) -> jax.Array:
        """x A B; the intermediate result is split over rows only."""
        middle = (out[0], "length" if out[1] == "residual" else out[1], None)
        narrow = products.dense(
            x, self.lora_a[...], None, axes=self.a_axes, out=middle, precision=self.precision
        )
        return products.dense(
            narrow, self.lora_b[...], None, axes=self.b_axes, out=out, precision=self.precision
        )


def adapter(config: ModelConfig, target: Target) -> LoraConfig | None:
    """Returns the LoRA config of a projection, or None if it has no adapter."""
    return config.lora if config.lora is not None and target in config.lora.targets else None


class Norm(nnx.Module):
    """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467) over the last axes, in float32.

    The backward pass recomputes from the input instead of keeping float32 copies.
    """

    def __init__(
        self, config: ModelConfig, *shape: int, kind: str | None = None, over: int | None = None
    ):
        """Args:
        shape: of the scale.
        kind: None: the config's.
        over: how many of the last axes are normalized together; None: all of `shape`.
        """
        self.over = tuple(range(-(over or len(shape)), 0))
        self.centered = (kind or config.norm) == "layernorm"
        self.epsilon, self.offset = config.norm_epsilon, float(config.norm_unit_offset)
        self.scale = constant(1.0 - self.offset, shape, (None,) * len(shape))
        self.has_bias = self.centered and config.norm_bias
        if self.has_bias:
            self.bias = constant(0.0, shape, (None,) * len(shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., *shape] -> the same shape and dtype."""
        bias = self.bias[...] if self.has_bias else None
        return jax.checkpoint(self._normalize, prevent_cse=False)(x, self.scale[...], bias)

    def _normalize(self, x: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
        y, over = x.astype(jnp.float32), self.over
        scale = scale + self.offset if self.offset else scale
        if self.centered:
            y = y - y.mean(over, keepdims=True)
        y = normalized(y, self.epsilon, over)
        y = y * scale if bias is None else y * scale + bias
        return y.astype(x.dtype)


def normalized(x: jax.Array, epsilon: float, over: tuple[int, ...] = (-1,)) -> jax.Array:
    """x divided by the root of the mean of its squares over these axes, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).mean(over, keepdims=True) + epsilon)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a fraction `rate` of `x` and scales up the rest; without a key, returns `x`."""
    if key is None or rate == 0.0:
        return x
    spec = mesh.spec_of(x)
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape, out_sharding=spec)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
    """Sinusoidal positions (arXiv:1706.03762), [B, L] -> [B, L, width] float32: sin, then cos."""
    half = width // 2
    frequency = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Table(nnx.Module):
    """An embedding table, [size, width]."""

    def __init__(
        self,
        size: int,
        width: int,
        axes: Axes,
        *,
        std: float,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        self.rows = normal(rngs, (size, width), axes, std, (-1,) if axes[0] == "vocab" else None)
        self.axes, self.precision = axes, precision

    def __call__(self, index: jax.Array, sharding: ActivationSharding) -> jax.Array:
        """[B, L] int32 -> [B, L, width] in the compute dtype, split like the residual stream."""
        return _look_up(self.rows.get_value(), index, self.axes, sharding, self.precision)


# The custom derivative sums a device's tokens in float32 whatever the compute dtype, and each
# device adds up only its own rows of the table before the reduction.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _look_up(
    rows: Weight,
    index: jax.Array,
    axes: Axes,
    sharding: ActivationSharding,
    precision: Precision,
) -> jax.Array:
    spec = mesh.out_sharding(*sharding.stream())

    def look_up(table: jax.Array) -> jax.Array:
        if table.dtype != jnp.bfloat16 or mesh.platform() != "cpu":
            return table.at[index].get(mode="clip", out_sharding=spec)
        # XLA's CPU compiler would convert a bfloat16 table to float32 whole. The barrier keeps it
        # from doing the same with the bits, ahead of a loop over tokens.
        table, at = jax.lax.optimization_barrier((table, index))
        bits = jax.lax.bitcast_convert_type(table, jnp.uint16)
        found = bits.at[at].get(mode="clip", out_sharding=spec)
        return jax.lax.bitcast_convert_type(found, jnp.bfloat16)

    if isinstance(rows, Quantized):
        found = look_up(mesh.reshard(rows.values, *products.gathered(axes))).astype(jnp.float32)
        scale = look_up(mesh.reshard(rows.scale, axes[0], None))
        return (found * scale).astype(precision.dtype)
    if not mesh.is_split(*axes):
        return look_up(rows).astype(precision.dtype)
    return look_up(products.gather(rows, axes, precision.dtype))


def _look_up_forward(
    rows: jax.Array,
    index: jax.Array,
    axes: Axes,
    sharding: ActivationSharding,
    precision: Precision,
) -> tuple[jax.Array, tuple]:
    return _look_up(rows, index, axes, sharding, precision), (rows, index)


def _look_up_backward(
    axes: Axes, sharding: ActivationSharding, precision: Precision, saved: tuple, dx: jax.Array
) -> tuple[jax.Array, None]:
    rows, index = saved
    size, width = rows.shape[0] // mesh.parts(axes[0]), rows.shape[1]

    def local(index: jax.Array, dx: jax.Array) -> tuple[jax.Array]:
        row = index - size * mesh.part_index(axes[0])
        row = jnp.where((row >= 0) & (row < size), row, size)  # size: another device's row
        sums = jnp.zeros((size, width), jnp.float32).at[row].add(dx, mode="drop")
        over = ("batch", sharding.length)
        sums = sums.astype(products.reduced(precision, *over))
        return (exchanges.reduce_scatter(sums, over, axes).astype(rows.dtype),)

    dx_axes = sharding.gathered()
    return mesh.per_device(local, (dx_axes[:2], dx_axes), (axes,))(index, dx)[0], None


_look_up.defvjp(_look_up_forward, _look_up_backward)
