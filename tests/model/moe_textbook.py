"""A mixture of experts as papers write it: every expert for every token, in float64."""

import jax
import jax.numpy as jnp

ACTIVATIONS = {
    "silu": lambda x: x / (1 + jnp.exp(-x)),
    "relu": lambda x: jnp.maximum(x, 0),
    "quick_gelu": lambda x: x / (1 + jnp.exp(-1.702 * x)),
}


def chosen_of(scores, moe):
    """bool [T, N]: whether a token's expert is among its best."""
    per_group = moe.num_experts // moe.groups
    grouped = scores.reshape(len(scores), moe.groups, per_group)
    best = jnp.sort(grouped, -1)[..., ::-1]
    group_score = best[..., :2].sum(-1) if moe.group_score == "top2" else best[..., 0]
    threshold = jnp.sort(group_score, -1)[:, -moe.groups_per_token]
    usable = jnp.repeat(group_score >= threshold[:, None], per_group, axis=1)
    scores = jnp.where(usable, scores, -jnp.inf)
    return scores >= jnp.sort(scores, -1)[:, -moe.experts_per_token][:, None]


def sparsemixer(logits, moe):
    """Weights [T, N] of the successive softmaxes, zero where not chosen."""
    weights, gone = jnp.zeros_like(logits), jnp.zeros(logits.shape, bool)
    for _ in range(moe.experts_per_token):
        top = jnp.where(gone, -jnp.inf, logits).max(-1, keepdims=True)
        far = (top - logits) / jnp.maximum(abs(logits), top) > 2 * moe.jitter
        shares = jax.nn.softmax(jnp.where(far | gone, -jnp.inf, logits))
        this = ~gone & (logits == top)
        weights, gone = weights + jnp.where(this, shares, 0), gone | this
    return weights


def route(logits, bias, moe):
    """Weights [T, N], zero where not chosen, and the scores."""
    scores = 1 / (1 + jnp.exp(-logits)) if moe.scores == "sigmoid" else jax.nn.softmax(logits)
    if moe.scores == "sparsemixer":
        return moe.weight_scale * sparsemixer(logits, moe), scores
    weights = jnp.where(chosen_of(scores + bias, moe), scores, 0)
    if moe.normalize:
        weights = weights / weights.sum(-1, keepdims=True)
    return moe.weight_scale * weights, scores


def mlp(x, params, config, index=()):
    """One MLP, or the expert of this index."""

    def project(name, x):
        part = params[name]
        y = x @ part["kernel"][index]
        return y + part["bias"][index] if "bias" in part else y

    limit = jnp.inf if config.activation_limit is None else config.activation_limit
    act, up = ACTIVATIONS[config.activation], project("up", x)
    if config.gated:
        gate = jnp.minimum(project("gate", x), limit)
        up = jnp.clip(up, -limit, limit) + config.up_offset
        inner = act(gate) * up
    else:
        inner = act(jnp.minimum(up, limit))
    return project("down", inner)


def moe_layer(params, x, config, is_token, kept=1.0):
    """[T, D] -> [T, D], weights [T, N], scores [T, N], logits [T, N]."""
    moe, router = config.moe, params["router"]
    logits = x @ router["kernel"] + router.get("bias", 0.0)
    weights, scores = route(logits, router.get("selection_bias", 0.0), moe)
    weights = weights * is_token[:, None] * kept
    y = 0.0
    for expert in range(moe.num_experts):
        weight = weights[:, expert, None]
        if moe.weight_inputs:
            y += mlp(x * weight, params["experts"], config, expert) * (weight != 0)
        else:
            y += mlp(x, params["experts"], config, expert) * weight
    if moe.shared_width:
        shared = mlp(x, params["shared"], config)
        gate = x @ params["shared_gate"]["kernel"] if moe.shared_gate else jnp.inf
        y += shared / (1 + jnp.exp(-gate))
    return y, weights, scores, logits
