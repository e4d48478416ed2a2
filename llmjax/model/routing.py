"""Routing: scores of the experts, each token's choice, and what is measured and penalized of it."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.attention import zigzag
from llmjax.model.aux_sums import Aux, metric, penalty
from llmjax.model.layers import ActivationSharding
from llmjax.model.moe_config import MoEConfig
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

TINY = 1e-20
"""Added to a token's sum of weights, as DeepSeek-V3 does: sigmoids may all be 0."""


class Routing(NamedTuple):
    """Where a layer's tokens go."""

    weights: jax.Array
    """[B, L, K] float32."""
    chosen: jax.Array
    """[B, L, K] int32; the number of experts N stands for none."""
    aux: Aux


def route(
    logits: jax.Array,
    bias: jax.Array | None,
    moe: MoEConfig,
    is_token: jax.Array | None,
    sharding: ActivationSharding,
    *,
    drops: bool,
) -> Routing:
    """Chooses the experts of each token, and their weights.

    Args:
      logits: [B, L, N] float32, split as `sharding.gathered()`.
      bias: [N] float32, the selection bias; None: none.
      moe: the config.
      is_token: [B, L] bool, False for padding, which goes nowhere and does not count; None: all.
      sharding: how activations are split.
      drops: whether there is a capacity.
    """
    tokens: Axes = ("batch", sharding.length)
    if is_token is None:
        is_token = jnp.ones(logits.shape[:2], bool, out_sharding=mesh.out_sharding(*tokens))
    is_token = mesh.reshard(is_token, *tokens)
    scores = jax.nn.sigmoid(logits) if moe.scores == "sigmoid" else jax.nn.softmax(logits)
    # Sigmoids of large logits are all 1; alone, they are in the order of the logits.
    in_order = moe.scores == "sigmoid" and bias is None and moe.groups == 1
    guide = logits if in_order or moe.scores == "sparsemixer" else scores
    guide = guide if bias is None else guide + bias
    choose = mesh.per_device(partial(_choose, moe), ((*tokens, None), tokens), ((*tokens, None),))
    (chosen,) = choose(jax.lax.stop_gradient(guide), is_token)
    if moe.scores == "sparsemixer":
        weights = _successive_softmax(logits, chosen, moe.jitter, tokens)
    else:
        weights = _pick(scores, chosen, tokens)
    if moe.normalize:
        weights = weights / (weights.sum(-1, keepdims=True) + TINY)
    weights = weights * moe.weight_scale
    counts = _count(chosen, moe.num_experts, tokens)
    if bias is not None:
        weights = _balanced(weights, bias, counts)
    aux = _aux(logits, scores, counts, is_token, moe)
    if moe.capacity_factor is not None and drops:
        kept = jnp.where(_within_capacity(chosen, moe, sharding), chosen, moe.num_experts)
        stay = (counts - _count(kept, moe.num_experts, tokens)).sum()
        aux["expert_dropped_share"] = metric(stay, counts.sum())
        chosen = kept
    return Routing(weights, chosen, aux)


def _choose(moe: MoEConfig, guide: jax.Array, is_token: jax.Array) -> tuple[jax.Array]:
    """[b, l, N] -> the best K of each token, int32 [b, l, K]."""
    if moe.groups > 1:
        grouped = guide.reshape(*guide.shape[:2], moe.groups, -1)
        best = jax.lax.top_k(grouped, 2 if moe.group_score == "top2" else 1)[0].sum(-1)
        _, groups = jax.lax.top_k(best, moe.groups_per_token)
        usable = (groups[..., None] == jnp.arange(moe.groups)).any(-2)
        guide = jnp.where(usable[..., None], grouped, -jnp.inf).reshape(guide.shape)
    _, chosen = jax.lax.top_k(guide, moe.experts_per_token)
    return (jnp.where(is_token[..., None], chosen, moe.num_experts),)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pick(scores: jax.Array, chosen: jax.Array, tokens: Axes) -> jax.Array:
    """The scores of the chosen experts, [B, L, N] -> [B, L, K]; 0 for none."""

    def local(scores: jax.Array, chosen: jax.Array) -> tuple[jax.Array]:
        found = jnp.take_along_axis(scores, chosen, -1, mode="fill", fill_value=0)
        return (found,)

    axes = (*tokens, None)
    return mesh.per_device(local, (axes, axes), (axes,))(scores, chosen)[0]


def _pick_forward(scores: jax.Array, chosen: jax.Array, tokens: Axes) -> tuple[jax.Array, tuple]:
    return _pick(scores, chosen, tokens), (scores, chosen)


def _pick_backward(tokens: Axes, saved: tuple, dy: jax.Array) -> tuple[jax.Array, None]:
    scores, chosen = saved
    experts = scores.shape[-1]

    def local(chosen: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
        each = chosen[..., None] == jnp.arange(experts)
        return (jnp.where(each, dy[..., None], 0).sum(-2),)

    axes = (*tokens, None)
    return mesh.per_device(local, (axes, axes), (axes,))(chosen, dy)[0], None


_pick.defvjp(_pick_forward, _pick_backward)


def _successive_softmax(
    logits: jax.Array, chosen: jax.Array, jitter: float, tokens: Axes
) -> jax.Array:
    """Weights of SparseMixer-v2 (arXiv:2409.12136) without its sampling, [B, L, K].

    For each choice, a softmax over the experts that are near its logit, and not chosen before.
    """
    experts, weights = jnp.arange(logits.shape[-1]), []
    left = jnp.zeros_like(logits)
    for choice in range(chosen.shape[-1]):
        this = chosen[..., choice : choice + 1]
        top = jax.lax.stop_gradient(_pick(logits, this, tokens))
        distance = (top - logits) / jnp.maximum(jnp.abs(logits), top)
        near = jnp.where(jax.lax.stop_gradient(distance) > 2 * jitter, -jnp.inf, logits + left)
        weights.append(_pick(jax.nn.softmax(near), this, tokens))
        left = jnp.where(experts == this, -jnp.inf, left)
    return jnp.concatenate(weights, -1)


def _count(chosen: jax.Array, experts: int, tokens: Axes) -> jax.Array:
    """float32 [N]: how many tokens of the whole batch chose each expert."""

    def local(chosen: jax.Array) -> tuple[jax.Array]:
        counts = jnp.zeros(experts, jnp.float32).at[chosen.reshape(-1)].add(1, mode="drop")
        names = tuple(name for axis in tokens for name in mesh.mesh_axes(axis))
        return (jax.lax.psum(counts, names) if names else counts,)

    return mesh.per_device(local, ((*tokens, None),), ((None,),))(chosen)[0]


@jax.custom_vjp
def _balanced(weights: jax.Array, bias: jax.Array, counts: jax.Array) -> jax.Array:
    """The weights; the selection bias gets each expert's load above the mean as its gradient.

    So it is summed over microbatches like a gradient, and the optimizer subtracts its sign times
    `bias_update_rate` (arXiv:2408.15664, algorithm 1).
    """
    return weights


def _balanced_forward(
    weights: jax.Array, bias: jax.Array, counts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return weights, counts


def _balanced_backward(
    counts: jax.Array, dweights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return dweights, counts - counts.mean(), jnp.zeros_like(counts)


_balanced.defvjp(_balanced_forward, _balanced_backward)


def _within_capacity(chosen: jax.Array, moe: MoEConfig, sharding: ActivationSharding) -> jax.Array:
    """bool [B, L, K]: whether the expert has taken fewer than its capacity of the row before."""
    share = chosen.shape[1] * moe.experts_per_token / moe.num_experts
    capacity = math.ceil((moe.capacity_factor or math.inf) * share)
    takes = (chosen[..., None] == jnp.arange(moe.num_experts)).any(-2).astype(jnp.float32)
    takes = zigzag.leave(takes) if sharding.zigzag else takes
    takes = mesh.reshard(takes, "batch", None, None)
    before = jnp.cumsum(takes, 1) - takes
    before = zigzag.enter(before) if sharding.zigzag else before
    tokens = ("batch", sharding.length)
    return _pick(mesh.reshard(before, *tokens, None), chosen, tokens) < capacity


def _aux(
    logits: jax.Array,
    scores: jax.Array,
    counts: jax.Array,
    is_token: jax.Array,
    moe: MoEConfig,
) -> Aux:
    """Losses and metrics of a layer's router, weighted by its tokens."""
    real = is_token.astype(jnp.float32)
    tokens = real.sum()
    share = scores / (scores.sum(-1, keepdims=True) + TINY) if moe.scores == "sigmoid" else scores
    load = jnp.sort(counts) / jnp.maximum(counts.mean(), 1 / moe.num_experts)
    entropy = -(share * jnp.log(jnp.maximum(share, TINY))).sum(-1)
    aux = {
        "router_entropy": metric((entropy * real).sum(), tokens),
        "expert_load_max": metric(load[-1] * tokens, tokens),
        "expert_load_median": metric(jnp.median(load) * tokens, tokens),
        "expert_load_min": metric(load[0] * tokens, tokens),
    }
    if moe.balance_loss:
        means = (share * real[..., None]).sum((0, 1))
        balance = moe.num_experts * (counts * means).sum() / jnp.maximum(tokens, 1)
        aux["router_balance_loss"] = penalty(balance, tokens, moe.balance_loss)
    if moe.z_loss:
        squares = jnp.square(jax.nn.logsumexp(logits, -1)) * real
        aux["router_z_loss"] = penalty(squares.sum(), tokens, moe.z_loss)
    return aux
