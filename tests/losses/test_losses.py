"""The fused cross-entropy equals the plain one, and ignores tokens of weight 0."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.losses import fused
from llmjax.losses.fused import LossInputs, nll_of
from llmjax.losses.labels import mean_squared_error
from llmjax.losses.scores import LogitConfig
from llmjax.losses.token_loss import token_loss, token_nll
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig, Precision
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model

B, L, D, V = 2, 9, 8, 32
MODEL = Model(
    resolve(ModelConfig(V, 16, d_model=D, num_decoder_layers=1, num_heads=2, logit_softcap=2.0), V)
)
HEADS = {
    "plain": LogitConfig(None, 0.0, 0.0, V, Precision("float32")),
    "z-loss": LogitConfig(None, 0.1, 0.0, V, Precision("float32")),
    "smooth": LogitConfig(None, 0.0, 0.2, V, Precision("float32")),
    "all": LogitConfig(1.5, 0.1, 0.2, V, Precision("float32")),
}


@pytest.fixture(params=[2, 5, 1000], ids="chunks of {}".format)
def chunked(request, monkeypatch):
    """Chunks that divide the tokens, that do not, and one for all."""
    monkeypatch.setattr("llmjax.losses.fused.CHUNK_BYTES", 0)
    monkeypatch.setattr("llmjax.losses.fused.CHUNK_TOKENS", request.param)


def operands():
    keys = jax.random.split(jax.random.key(0), 5)
    hidden, rows = jax.random.normal(keys[0], (B, L, D)), jax.random.normal(keys[1], (V, D))
    targets = jax.random.randint(keys[2], (B, L), 0, V)
    weights = jax.random.uniform(keys[3], (B, L)).at[0, 2].set(0.0)
    return hidden, rows, jax.random.normal(keys[4], (V,)), targets, weights


def cross_entropy(hidden, rows, bias, targets, weights, logits):
    return fused.cross_entropy(LossInputs(hidden, rows, bias, targets), weights, logits)


def plain(hidden, rows, bias, targets, weights, head):
    """The definition, with all logits at once."""
    z = hidden @ rows.T + bias
    z = z if head.softcap is None else head.softcap * jnp.tanh(z / head.softcap)
    log_p = jax.nn.log_softmax(z)
    nats = -jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    smooth = (1 - head.smoothing) * nats - head.smoothing * log_p.mean(-1)
    total = smooth + head.z_loss * jax.nn.logsumexp(z, -1) ** 2
    best = z.argmax(-1) == targets
    return jnp.stack([(weights * x).sum() for x in (total, nats, jnp.ones_like(nats), best)])


@pytest.mark.parametrize("name", HEADS)
def test_sums_and_gradients(name, chunked):
    def first(f):
        return jax.jit(
            jax.value_and_grad(lambda *a: 3 * f(*a, *operands()[3:], HEADS[name])[0], (0, 1, 2))
        )(*operands()[:3])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
        first(cross_entropy),
        first(plain),
    )
    sums = jax.jit(cross_entropy, static_argnums=5)(*operands(), HEADS[name])
    np.testing.assert_allclose(sums, plain(*operands(), HEADS[name]), rtol=1e-5)


def test_nats_of_each_token(chunked):
    hidden, rows, bias, targets, _ = operands()
    nats = nll_of(LossInputs(hidden, rows, bias, targets), HEADS["plain"])
    log_p = jax.nn.log_softmax(hidden @ rows.T + bias)
    expected = -jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(nats, expected, rtol=1e-5, atol=1e-5)


def test_a_token_without_weight_adds_exactly_nothing():
    """Even if its hidden state is NaN or infinite, or its target invalid."""
    hidden, rows, bias, targets, weights = operands()
    step = jax.jit(
        jax.value_and_grad(
            lambda h, r, b, t: cross_entropy(h, r, b, t, weights, HEADS["all"])[0],
            (0, 1, 2),
        )
    )
    clean = step(hidden, rows, bias, targets)
    for poison in (jnp.nan, jnp.inf, 1e30):
        poisoned = step(hidden.at[0, 2].set(poison), rows, bias, targets.at[0, 2].set(-100))
        jax.tree.map(np.testing.assert_array_equal, poisoned, clean)


def test_there_is_no_array_of_all_logits(monkeypatch):
    monkeypatch.setattr("llmjax.losses.fused.CHUNK_BYTES", 0)
    monkeypatch.setattr("llmjax.losses.fused.CHUNK_TOKENS", 3)

    def text(f):
        loss = lambda h, r: f(h, r, *operands()[2:], HEADS["plain"])[0]  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*operands()[:2]))

    full_logits = (f"[{B},{L},{V}]", f"[{B * L},{V}]")
    assert any(shape in text(plain) for shape in full_logits)
    assert not any(shape in text(cross_entropy) for shape in full_logits)


def test_large_logits_stay_finite():
    hidden, rows, bias, targets, weights = operands()
    sums = cross_entropy(hidden * 1e4, rows, bias, targets, weights, HEADS["plain"])
    assert np.isfinite(sums).all()


def test_model_and_loss_agree():
    params = jax.jit(MODEL.init)(jax.random.key(0))
    _, _, _, targets, weights = operands()
    batch = {"inputs": (targets + 1) % V, "targets": targets, "weights": weights}
    loss = token_loss(MODEL, params, batch)
    head = LogitConfig(None, 0.0, 0.0, V, Precision("float32"))
    z = MODEL.apply(params, batch["inputs"])
    expected = plain(z, jnp.eye(V), 0.0, targets, weights, head)
    sums = (loss.objective, loss.sums["loss"].total, loss.weight, loss.sums["accuracy"].total)
    np.testing.assert_allclose(jnp.stack(sums), expected, rtol=1e-5, atol=1e-6)
    nats = token_nll(MODEL, params, batch)
    assert nats.shape == (B, L)
    np.testing.assert_allclose((nats * weights).sum(), loss.sums["loss"].total, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_nats_of_single_tokens_have_a_derivative(head):
    *inputs, targets, weights = operands()
    signed = jnp.where(weights > 0.5, weights, -weights)  # as in preference losses

    def fused_loss(hidden, rows, bias):
        return (jnp.tanh(nll_of(LossInputs(hidden, rows, bias, targets), head)) * signed).sum()

    def plain_loss(hidden, rows, bias):
        z = hidden @ rows.T + bias
        z = z if head.softcap is None else head.softcap * jnp.tanh(z / head.softcap)
        nats = -jnp.take_along_axis(jax.nn.log_softmax(z), targets[..., None], -1)[..., 0]
        return (jnp.tanh(nats) * signed).sum()

    gradients = jax.jit(jax.grad(fused_loss, (0, 1, 2)))(*inputs)
    expected = jax.jit(jax.grad(plain_loss, (0, 1, 2)))(*inputs)
    for gradient, value in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=1e-4, atol=1e-5)


def test_bfloat16_sums_in_float32():
    """With many tokens in half precision, only operands are rounded, not the sum."""
    hidden, rows, bias, targets, weights = operands()
    half = HEADS["plain"]._replace(precision=Precision("bfloat16"))
    many = jnp.tile(hidden.astype(jnp.bfloat16), (64, 1, 1))
    tiled = (jnp.tile(targets, (64, 1)), jnp.tile(weights, (64, 1)))
    sums = cross_entropy(many, rows, bias, *tiled, half)
    assert sums.dtype == jnp.float32
    exact = plain(hidden, rows, bias, targets, weights, HEADS["plain"])
    np.testing.assert_allclose(sums[:3] / 64, exact[:3], rtol=1e-2)
    np.testing.assert_allclose(sums[2], 64 * exact[2], rtol=1e-6)


def test_mean_squared_error():
    predictions = jnp.array([1.0, jnp.nan, 3.0])
    loss = mean_squared_error(predictions, jnp.zeros(3), jnp.array([2.0, 0.0, 0.5]))
    assert (float(loss.objective), float(loss.weight)) == (6.5, 2.5)
    assert loss.sums.keys() == {"loss"}


@pytest.mark.parametrize("remat", ["attention", "dots", "full", "query,up,attention"])
def test_remat_does_not_change_the_result(remat):
    """The same loss and gradients, and fewer numbers kept for the backward pass."""
    config = replace(MODEL.config, num_decoder_layers=2)
    compute = ComputeConfig(dropout=0.3, attention="blocked")
    params = jax.jit(Model(config).init)(jax.random.key(0))
    targets = operands()[3]
    batch = {"inputs": targets, "targets": targets, "weights": jnp.ones((B, L))}

    def gradients(compute):
        def total(params):
            key = jax.random.key(1)
            return token_loss(Model(config, compute), params, batch, dropout_key=key).objective

        kept = jax.eval_shape(lambda p: jax.vjp(total, p)[1], params)
        size = sum(np.prod(x.shape) for x in jax.tree.leaves(kept))
        return jax.jit(jax.value_and_grad(total))(params), size

    (expected, most), (same, fewer) = gradients(compute), gradients(replace(compute, remat=remat))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), same, expected
    )
    assert fewer < most
