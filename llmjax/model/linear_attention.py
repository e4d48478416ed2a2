"""Linear attention of a layer by the gated delta rule (Gated DeltaNet, arXiv:2412.06464)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llmjax.model.cache import Cache, LinearState, empty_state
from llmjax.model.compute import ATTENTION, ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.delta_rule import DeltaInputs, delta_rule
from llmjax.model.layer_types import LayerType
from llmjax.model.layers import Dense, Norm, adapter, normal
from llmjax.model.lora import Target
from llmjax.model.self_attention import BlockContext
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

NORM_EPSILON = 1e-6
"""Added to the squared length of queries and keys, which are normalized to length 1."""
FASTEST = 16.0
"""Initial rates of decay are uniform up to this."""
HEADS = ("batch", None, "heads", "head_dim")
"""Logical axes of activations: rows are not split along their length."""
STEPS = (1e-3, 0.1)
"""Initial steps, which multiply them, are log-uniform between these (Mamba, arXiv:2312.00752,
section 3.6)."""


class LinearAttention(nnx.Module):
    """Queries, keys and values, convolved; the gated delta rule; a norm and a gate of its output.

    The value heads that share a key head are side by side, so that a device with some key heads
    has all that belongs to them.
    """

    def __init__(
        self, config: ModelConfig, compute: ComputeConfig, *, out_std: float, rngs: nnx.Rngs
    ):
        assert config.linear is not None
        linear = self.linear = config.linear
        self.config, self.compute = config, compute
        d, heads, values = config.d_model, linear.key_heads, linear.group_width

        def project(name: str, width: int, lora: Target | None = None) -> Dense:
            return Dense(
                (d, heads, width),
                ("embed", "heads", "head_dim"),
                bias=False,
                std=compute.init_std,
                precision=compute.precision,
                rngs=rngs,
                outer=2,
                lora=None if lora is None else adapter(config, lora),
                name=name,
            )

        self.query = project("query", linear.key_head_dim, "query")
        self.key = project("key", linear.key_head_dim, "key")
        self.value = project("value", values, "value")
        self.output_gate = project("output_gate", values, "output_gate")
        self.beta = project("beta", linear.values_per_key)
        self.decay = project("decay", linear.values_per_key)

        def convolution(width: int) -> nnx.Param:
            # PyTorch's default initialization, as in the paper's code.
            std = (3 * linear.conv_width) ** -0.5
            return normal(rngs, (heads * width, linear.conv_width), ("heads", None), std)

        self.query_conv = convolution(linear.key_head_dim)
        self.key_conv = convolution(linear.key_head_dim)
        self.value_conv = convolution(values)
        shape, axes = (heads, linear.values_per_key), ("heads", None)
        rates = FASTEST * _uniform(rngs, shape, axes)
        low, high = map(jnp.log, STEPS)
        steps = jnp.exp(low + (high - low) * _uniform(rngs, shape, axes))
        self.log_rate = nnx.Param(jnp.log(rates), axes=axes)
        self.decay_bias = nnx.Param(jnp.log(jnp.expm1(steps)), axes=axes)  # softplus's inverse
        plain = replace(config, norm_unit_offset=False)
        self.norm = Norm(plain, linear.value_head_dim, kind="rmsnorm")
        self.out = Dense(
            (heads, values, d),
            ("heads", "head_dim", "embed"),
            bias=False,
            std=out_std,
            precision=compute.precision,
            rngs=rngs,
            lora=adapter(config, "out"),
            name="out",
        )

    def __call__(
        self,
        x: jax.Array,
        context: BlockContext,
        layer_type: LayerType,
        cache: Cache | None,
        layer: int | None,
    ) -> tuple[jax.Array, Cache | None]:
        """As `Attention`: [B, L, D] -> [B, L, D], and the cache."""
        sharding, heads = context.sharding, HEADS
        x = mesh.reshard(x, "batch", None, None)  # a mesh with one device along the sequence
        qkv = [project(x, heads) for project in (self.query, self.key, self.value)]
        strengths = self.beta(x, heads), self.decay(x, heads)
        segments = context.mask.query_segments
        segments = None if segments is None else mesh.reshard(segments, "batch", None)
        if cache is None:
            state = empty_state(self.config, self.compute.dtype, x.shape[0])
        else:
            assert layer is not None
            state = cache.read_state(layer)
        # Else the backward pass would keep several copies of the inputs in float32.
        run: Callable = partial(self._mixed, packed=cache is None)
        run = jax.checkpoint(run, prevent_cse=False) if cache is None else run
        y, state = run(jnp.concatenate(qkv, -1), strengths, segments, state, self._weights())
        if cache is not None:
            assert layer is not None
            cache = cache.with_state(layer, state)
        y = self._gated(checkpoint_name(y, ATTENTION), self.output_gate(x, heads))
        return self.out(mesh.reshard(y, *sharding.heads()), sharding.stream()), cache

    def _weights(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Taps of the convolution [N, F, W], rates of decay and biases of its steps [N, R]."""
        heads = self.linear.key_heads
        taps = [
            _split_heads(conv[...], heads)
            for conv in (self.query_conv, self.key_conv, self.value_conv)
        ]
        rates = jnp.exp(self.log_rate[...].astype(jnp.float32))
        return jnp.concatenate(taps, 1), rates, self.decay_bias[...].astype(jnp.float32)

    def _mixed(
        self,
        qkv: jax.Array,
        strengths: tuple[jax.Array, jax.Array],
        segments: jax.Array | None,
        state: LinearState,
        weights: tuple[jax.Array, jax.Array, jax.Array],
        *,
        packed: bool,
    ) -> tuple[jax.Array, LinearState]:
        """What attention is in other layers, without its projections.

        Args:
          qkv: [B, L, N, F], projected, in the compute dtype.
          strengths: projected inputs of beta and of the decay, [B, L, N, R].
          segments: [B, L] int32, 0 for padding; None: no padding, and a single document.
          state: before the first token.
          weights: of `_weights`.
          packed: whether rows may have several documents, and states are not needed; else padding
            is at the end.

        Returns:
          [B, L, N, R V] in the compute dtype, and the state after the last token.
        """
        linear, dtype = self.linear, qkv.dtype
        taps, rates, bias = weights
        inputs = jnp.concatenate([state.recent.astype(dtype), qkv], 1)
        recent = state.recent if packed else _last(inputs, segments, state.recent)
        convolved = jax.nn.silu(convolve(inputs, taps, segments if packed else None))
        width = linear.key_head_dim
        q, k, v = jnp.split(convolved, [width, 2 * width], -1)
        q, k = _unit(q) * width**-0.5, _unit(k)
        v = v.reshape(*v.shape[:3], linear.values_per_key, linear.value_head_dim)
        beta, step = (part.astype(jnp.float32) for part in strengths)
        beta, log_decay = jax.nn.sigmoid(beta), -rates * jax.nn.softplus(step + bias)
        reset = None
        if segments is not None:
            is_token = (segments > 0)[:, :, None, None]
            beta, log_decay = beta * is_token, log_decay * is_token
            if packed:
                reset = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
        rule = DeltaInputs(q, k, v, log_decay, beta, reset)
        out, matrix = delta_rule(rule, state.matrix, exact=self.compute.dtype == "float32")
        return out.reshape(*out.shape[:3], -1).astype(dtype), LinearState(recent, matrix)

    def _gated(self, y: jax.Array, gate: jax.Array) -> jax.Array:
        """Normalizes each head's output, and multiplies by the gate's SiLU: [B, L, N, R V]."""
        heads = y.reshape(*y.shape[:3], self.linear.values_per_key, self.linear.value_head_dim)
        y = self.norm(heads).reshape(y.shape)
        return y * jax.nn.silu(gate.astype(jnp.float32)).astype(y.dtype)


def convolve(x: jax.Array, taps: jax.Array, segments: jax.Array | None) -> jax.Array:
    """A causal convolution of each channel, in float32.

    Args:
      x: [B, W - 1 + L, N, F], after the W - 1 inputs before the first of L tokens.
      taps: [N, F, W], the last for the token itself.
      segments: [B, L] int32; tokens see only their own. None: there is one.

    Returns:
      [B, L, N, F].
    """
    width = taps.shape[-1]
    length, out = x.shape[1] - (width - 1), jnp.float32(0)
    for tap in range(width):
        back = width - 1 - tap
        shifted = x[:, tap : tap + length].astype(jnp.float32) * taps[..., tap].astype(jnp.float32)
        if segments is not None and back:
            before = jnp.pad(segments, ((0, 0), (back, 0)))[:, :length]
            shifted = shifted * (before == segments)[:, :, None, None]
        out = out + shifted
    return out


def _last(x: jax.Array, segments: jax.Array | None, recent: jax.Array) -> jax.Array:
    """The inputs of the convolution before the next token, of tokens before padding, as `recent`.

    `x`: [B, W - 1 + T, N, F], as of `convolve`.
    """
    count = recent.shape[1]
    if segments is None:
        last = x[:, x.shape[1] - count :]
    else:
        index = segments.sum(1)[:, None] + jnp.arange(count)
        last = jnp.take_along_axis(x, index[:, :, None, None], axis=1)
    return last.astype(recent.dtype)


def _unit(x: jax.Array) -> jax.Array:
    """Vectors of length 1 along the last axis."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + NORM_EPSILON)


def _split_heads(conv: jax.Array, heads: int) -> jax.Array:
    """[N F, W] -> [N, F, W], split over devices by heads."""
    out = mesh.out_sharding("heads", None, None)
    shape = heads, conv.shape[0] // heads, conv.shape[1]
    return jax.lax.reshape(conv, shape, out_sharding=out)


def _uniform(rngs: nnx.Rngs, shape: tuple[int, ...], axes: Axes) -> jax.Array:
    spec = mesh.out_sharding(*axes)
    return jax.random.uniform(rngs.params(), shape, minval=1e-4, out_sharding=spec)
