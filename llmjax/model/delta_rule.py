"""The gated delta rule (arXiv:2412.06464): a recurrence over tokens, in chunks or step by step.

A head keeps a matrix S [K, V] from keys to values. A token with query q, key k, value v, decay
a = exp(log_decay) and strength b does (section 3.1)

    S <- a S;   S <- S + k b (v - S^T k)^T;   o = S^T q

In a chunk, the corrections u = b (v - S^T k) of all tokens solve one triangular system (the WY form
of arXiv:2406.06484, section 3.2; with decays in arXiv:2412.06464, section 3.3), so that only the
matrix passes from chunk to chunk, and the rest are products of matrices.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.parallel import mesh

CHUNK = 64
"""Tokens of a chunk, a power of two."""

STATE_AXES = ("batch", "heads", None, None, None)
"""Logical axes of a state."""


class DeltaInputs(NamedTuple):
    """Inputs of the recurrence: N key heads, each with the values of R heads."""

    q: jax.Array
    """[B, L, N, K]."""
    k: jax.Array
    """[B, L, N, K]."""
    v: jax.Array
    """[B, L, N, R, V]."""
    log_decay: jax.Array
    """[B, L, N, R], at most 0; its dtype is that of the sums. 0 for padding."""
    beta: jax.Array
    """[B, L, N, R], from 0 to 1; 0 for padding, which then leaves the state as it is."""
    reset: jax.Array | None = None
    """[B, L] bool, tokens before which the state becomes 0; None: none."""


def delta_rule(
    inputs: DeltaInputs, state: jax.Array, *, exact: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Runs the recurrence over L tokens, each device with its own rows and heads.

    Args:
      inputs: q, k, v in any float dtype. None of them is split along the length.
      state: [B, N, R, K, V], before the first token, in the dtype of the sums.
      exact: whether products have all digits of that dtype; else as few as the device's default.

    Returns:
      The outputs, [B, L, N, R, V] in the dtype of the sums, and the state after the last token.
    """
    heads, values = ("batch", None, "heads", None), ("batch", None, "heads", None, None)
    axes = (heads, heads, values, heads, heads, ("batch", None), STATE_AXES)
    run = delta_step if inputs.q.shape[1] == 1 else partial(_in_chunks, exact=exact)

    def local(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        return run(DeltaInputs(*arrays[:-1]), arrays[-1])

    return mesh.per_device(local, axes, (values, STATE_AXES))(*inputs, state)


def delta_step(inputs: DeltaInputs, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`delta_rule` for one token, L = 1; sums of products, without chunks."""
    dtype = inputs.log_decay.dtype
    q, k, v, decay, beta = (x[:, 0].astype(dtype) for x in inputs[:5])
    if inputs.reset is not None:
        state = jnp.where(inputs.reset[:, 0, None, None, None, None], 0, state)
    state = state * jnp.exp(decay)[..., None, None]
    q, k = (x[:, :, None, :, None] for x in (q, k))
    u = beta[..., None] * (v - (state * k).sum(-2))
    state = state + k * u[..., None, :]
    return (state * q).sum(-2)[:, None], state


class _Chunks(NamedTuple):
    """What the loop over chunks needs, with the chunks leading: n chunks of C tokens."""

    q: jax.Array
    """[n, B, N, C, K]."""
    k: jax.Array
    """[n, B, N, C, K]."""
    solved_k: jax.Array
    """[n, B, N, R, C, K]: times a state, what the corrections lose by it."""
    solved_v: jax.Array
    """[n, B, N, R, C, V]: the corrections if the state is 0."""
    scores: jax.Array
    """[n, B, N, R, C, C]: q k^T, decayed, of visible pairs."""
    from_state: jax.Array
    """[n, B, N, R, C]: decay since the chunk's start; 0 after a reset."""
    to_state: jax.Array
    """[n, B, N, R, C]: decay to the chunk's end; 0 before a reset."""


def _in_chunks(
    inputs: DeltaInputs, state: jax.Array, *, exact: bool
) -> tuple[jax.Array, jax.Array]:
    length, precision = inputs.q.shape[1], jax.lax.Precision.HIGHEST if exact else None
    chunk = min(CHUNK, 1 << (length - 1).bit_length()) if isinstance(length, int) else CHUNK
    product = partial(jnp.einsum, precision=precision)
    chunks = _prepared(inputs, chunk, product)

    def run_chunk(state: jax.Array, at: _Chunks) -> tuple[jax.Array, jax.Array]:
        u = at.solved_v - product("bnrck,bnrkv->bnrcv", at.solved_k, state)
        out = at.from_state[..., None] * product("bnck,bnrkv->bnrcv", at.q, state)
        out += product("bnrcj,bnrjv->bnrcv", at.scores, u)
        decayed = state * at.from_state[..., -1, None, None]
        added = product("bnck,bnrcv->bnrkv", at.k, at.to_state[..., None] * u)
        return decayed + added, out

    state, out = jax.lax.scan(run_chunk, state, chunks)
    out = out.transpose(1, 0, 4, 2, 3, 5)  # [B, n, C, N, R, V]
    return out.reshape(out.shape[0], out.shape[1] * chunk, *out.shape[3:])[:, :length], state


def _prepared(inputs: DeltaInputs, chunk: int, product: partial) -> _Chunks:
    """All that does not depend on the state, of all chunks at once."""
    length, dtype = inputs.q.shape[1], inputs.log_decay.dtype
    count = (length + chunk - 1) // chunk
    padding = count * chunk - length

    def split(x: jax.Array) -> jax.Array:
        """[B, L, ...] -> [n, B, C, ...], padded with zeros."""
        x = jnp.pad(x, ((0, 0), (0, padding), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(x.shape[0], count, chunk, *x.shape[2:]).swapaxes(0, 1)

    q, k, v, log_decay, beta = (split(x).astype(dtype) for x in inputs[:5])
    q, k = q.swapaxes(2, 3), k.swapaxes(2, 3)
    v, log_decay, beta = (jnp.moveaxis(x, 2, 4) for x in (v, log_decay, beta))
    total = jnp.cumsum(log_decay, -1)
    visible = jnp.tril(jnp.ones((chunk, chunk), bool))
    from_state, to_state = jnp.exp(total), jnp.exp(total[..., -1:] - total)
    if inputs.reset is not None:
        resets = jnp.cumsum(split(inputs.reset.astype(jnp.int32)), -1)[:, :, None, None]
        visible &= resets[..., :, None] == resets[..., None, :]
        from_state *= resets == 0
        to_state *= resets == resets[..., -1:]
    decay = jnp.exp(jnp.where(visible, total[..., :, None] - total[..., None, :], -jnp.inf))
    alike = product("nbhck,nbhjk->nbhcj", k, k)[:, :, :, None]
    solved = _unit_inverse(jnp.tril(beta[..., None] * decay * alike, -1))
    weighted = solved * beta[..., None, :]
    return _Chunks(
        q,
        k,
        product("nbhrcj,nbhjk->nbhrck", weighted * from_state[..., None, :], k),
        product("nbhrcj,nbhrjv->nbhrcv", weighted, v),
        decay * product("nbhck,nbhjk->nbhcj", q, k)[:, :, :, None],
        from_state,
        to_state,
    )


_multiply = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def _unit_inverse(a: jax.Array) -> jax.Array:
    """(I + a)^-1 of strictly lower triangular matrices [..., C, C], C a power of two.

    Inverses of blocks on the diagonal become those of blocks twice as large: forward substitution,
    as products of matrices. A power series of `a` would lose all digits where keys are alike.
    """
    size = a.shape[-1]
    index, inverse, block = jnp.arange(size), jnp.eye(size, dtype=a.dtype), 1
    while block < size:
        own, pair = index // block, index // (2 * block)
        between = (pair[:, None] == pair) & (own[:, None] != own)
        inverse = inverse - _multiply(_multiply(inverse, jnp.where(between, a, 0)), inverse)
        block *= 2
    return jnp.broadcast_to(inverse, a.shape)


def _inverse_forward(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    inverse = _unit_inverse(a)
    return inverse, inverse


def _inverse_backward(inverse: jax.Array, d: jax.Array) -> tuple[jax.Array]:
    transposed = inverse.swapaxes(-1, -2)
    return (-_multiply(_multiply(transposed, d), transposed),)


_unit_inverse.defvjp(_inverse_forward, _inverse_backward)
