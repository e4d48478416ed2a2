"""A straightforward Transformer in float64 NumPy, a token and a head at a time."""

import math

import numpy as np

ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


def norm(x, p, config, kind=None):
    if (kind or config.norm) == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * p["scale"]
    return x + p.get("bias", 0)


def project(x, p):
    kernel = p["kernel"]
    inner = np.prod(kernel.shape[: x.ndim - 1], dtype=int)
    y = x.reshape(len(x), inner) @ kernel.reshape(inner, -1)
    return y.reshape(len(x), *kernel.shape[x.ndim - 1 :]) + p.get("bias", 0)


def rotate(x, theta):
    """Rotates each pair (i, i + half) as a complex number."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * theta ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def attend(x, memory, p, config, *, causal, window, rotary):
    q, k, v = project(x, p["query"]), project(memory, p["key"]), project(memory, p["value"])
    if config.qk_norm:
        q, k = norm(q, p["query_norm"], config, "rms"), norm(k, p["key_norm"], config, "rms")
    if rotary:
        q, k = rotate(q, config.rope_theta), rotate(k, config.rope_theta)
    out = np.zeros_like(q)
    for t in range(len(q)):
        seen = [
            s
            for s in range(len(k))
            if (s <= t or not causal) and (window is None or abs(t - s) < window)
        ]
        for h in range(q.shape[1]):
            g = h // (q.shape[1] // k.shape[1])
            scores = k[seen, g] @ q[t, h] / math.sqrt(q.shape[2])
            if config.attention_softcap:
                scores = config.attention_softcap * np.tanh(scores / config.attention_softcap)
            odds = np.exp(scores)
            out[t, h] = odds @ v[seen, g] / odds.sum()
    return project(out, p["out"])


def mlp(x, p, config):
    act = ACTIVATIONS[config.activation]
    up = project(x, p["up"])
    return project(act(project(x, p["gate"])) * up if config.gated else act(up), p["down"])


def stack(tokens, params, p, config, *, causal, encoded=None):
    x = params["embedding"]["rows"][tokens]
    if config.embed_scale:
        x = x * math.sqrt(config.d_model)
    x = x * config.embed_multiplier
    if config.positions == "learned":
        x = x + p["positions"]["rows"][: len(x)]
    if config.positions == "sinusoidal":
        half = config.d_model // 2
        angle = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(half) / half)
        x = x + np.concatenate([np.sin(angle), np.cos(angle)], -1)
    if config.embed_norm:
        x = norm(x, p["embed_norm"], config)

    def residual(x, scale, change):
        if config.norm_placement == "pre":
            return x + config.residual_multiplier * change(norm(x, scale, config))
        return norm(x + config.residual_multiplier * change(x), scale, config)

    for i in range(len(p["layers"]["mlp_norm"]["scale"])):
        layer = nested(p["layers"], lambda leaf, i=i: leaf[i])
        rotary = config.positions == "rotary"
        options = {"causal": causal, "window": config.window, "rotary": rotary}
        x = residual(
            x,
            layer["attention_norm"],
            lambda h, p=layer, options=options: attend(h, h, p["attention"], config, **options),
        )
        if encoded is not None:
            cross = {"causal": False, "window": None, "rotary": False}
            x = residual(
                x,
                layer["cross_attention_norm"],
                lambda h, p=layer, c=cross: attend(h, encoded, p["cross_attention"], config, **c),
            )
        x = residual(x, layer["mlp_norm"], lambda h, p=layer: mlp(h, p["mlp"], config))
    return norm(x, p["norm"], config) if config.norm_placement == "pre" else x


def nested(tree, f):
    return {k: nested(v, f) if isinstance(v, dict) else f(v) for k, v in tree.items()}


def logits(params, config, tokens, encoder_tokens=None):
    """One row of tokens to [L, V]."""
    params = nested(params, lambda leaf: np.asarray(leaf, np.float64))
    x = encoded = None
    if config.num_encoder_layers:
        inputs = tokens if encoder_tokens is None else encoder_tokens
        x = encoded = stack(inputs, params, params["encoder"], config, causal=False)
    if config.num_decoder_layers:
        x = stack(tokens, params, params["decoder"], config, causal=True, encoded=encoded)
    rows = params["embedding"]["rows"] if config.tie_embeddings else params["unembedding"]
    z = x @ rows.T + params.get("unembedding_bias", 0)
    return (
        z
        if config.logit_softcap is None
        else config.logit_softcap * np.tanh(z / config.logit_softcap)
    )
