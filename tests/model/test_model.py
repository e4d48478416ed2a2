"""The model's functions: what they compute, which tokens attend to which, initial weights."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from shapes import BERT, BOTH, GPT, KINDS, LLAMA, applied, assert_close, make, source, tokens

from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.flops import flops_per_token
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model


@pytest.mark.parametrize("name", KINDS)
def test_computes_the_textbook(name):
    (_, params), config = make(KINDS[name]), KINDS[name]
    row, more = tokens(2, 8), source(config, 2)
    out = applied(config)(row, **more)
    for i in range(2):
        encoder = {name: np.asarray(x[i]) for name, x in more.items()}
        expected = textbook.logits(params, config, np.asarray(row[i]), **encoder)
        assert_close(out[i], expected, 2e-5)


@pytest.mark.parametrize("name", KINDS)
def test_who_sees_a_token(name):
    """Changing token 5 changes later outputs of a decoder, and all of an encoder's."""
    config, apply = KINDS[name], applied(KINDS[name])
    row, more = tokens(2, 8), source(config, 2)
    changed = row.at[:, 5].set((row[:, 5] + 1) % 32)
    moved = jnp.abs(apply(row, **more) - apply(changed, **more)).max((0, 2)) > 1e-6
    expected = np.arange(8) >= 5 if config.num_decoder_layers else np.ones(8, bool)
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("name", KINDS)
def test_packed_documents_are_alone(name):
    """Two documents and padding in a row: each as if it were alone in the row."""
    (_, params), config = make(KINDS[name]), KINDS[name]
    a, b = (np.asarray(tokens(1, n, seed=n)[0]) for n in (3, 4))
    packed = {
        "segments": np.array([[1, 1, 1, 2, 2, 2, 2, 0]]),
        "positions": np.array([[0, 1, 2, 0, 1, 2, 3, 0]]),
    }
    alone_a, alone_b = {}, {}
    if config.is_encoder_decoder:
        x, y = (np.asarray(tokens(1, n, seed=n)[0]) for n in (2, 5))
        packed |= {
            "encoder_tokens": np.concatenate([x, y, [7]])[None],
            "encoder_segments": np.array([[1, 1, 2, 2, 2, 2, 2, 0]]),
            "encoder_positions": np.array([[0, 1, 0, 1, 2, 3, 4, 0]]),
        }
        alone_a, alone_b = {"encoder_tokens": x}, {"encoder_tokens": y}
    out = applied(config)(np.concatenate([a, b, [7]])[None], **packed)[0]
    assert_close(out[:3], textbook.logits(params, config, a, **alone_a), 2e-5)
    assert_close(out[3:7], textbook.logits(params, config, b, **alone_b), 2e-5)
    assert np.isfinite(out).all()


def test_padding_of_the_source_is_unseen():
    _, params = make(BOTH)
    row, encoder_tokens = np.asarray(tokens(1, 4)), np.asarray(tokens(1, 6, seed=3))
    segments = np.array([[1, 1, 1, 1, 0, 0]])
    out = applied(BOTH)(row, encoder_tokens=encoder_tokens, encoder_segments=segments)[0]
    assert_close(out, textbook.logits(params, BOTH, row[0], encoder_tokens[0, :4]), 2e-5)


def test_a_window_bounds_what_is_seen():
    """Two layers of window 3 reach 4 tokens back."""
    row = tokens(1, 12)
    apply = applied(replace(LLAMA, window=3))
    moved = jnp.abs(apply(row) - apply(row.at[0, 2].set((row[0, 2] + 1) % 32)))[0].max(-1) > 1e-6
    np.testing.assert_array_equal(moved, (np.arange(12) >= 2) & (np.arange(12) <= 6))


def test_bfloat16_is_close():
    half = ComputeConfig(dtype="bfloat16")
    exact, rough = applied(LLAMA)(tokens(2)), applied(LLAMA, half)(tokens(2))
    assert rough.dtype == jnp.float32
    model, params = make(LLAMA, half)
    assert jax.eval_shape(model.hidden, params, tokens(2)).dtype == jnp.bfloat16
    assert 1e-5 < jnp.abs(exact - rough).max() < 0.05 * jnp.abs(exact).max()


def test_dropout_follows_its_key():
    model, params = make(BOTH, ComputeConfig(dropout=0.5))
    inputs = source(BOTH)
    run = jax.jit(lambda key: model.apply(params, tokens(), dropout_key=key, **inputs))
    first, again, different = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - different).max() > 0.1
    without = jax.make_jaxpr(lambda: model.apply(params, tokens(), **inputs))()
    plain, _ = make(BOTH)
    assert str(without) == str(jax.make_jaxpr(lambda: plain.apply(params, tokens(), **inputs))())


@pytest.mark.parametrize("name", ["gpt", "both"])
def test_initial_weights(name):
    """Normal with init_std, divided by sqrt(2 layers) in residual projections; distinct keys."""
    config = replace(KINDS[name], d_model=64, vocab_size=128, num_heads=4)
    model = Model(resolve(config, 128))
    params = jax.jit(model.init)(jax.random.key(0))
    assert model.num_params() == sum(x.size for x in jax.tree.leaves(params))
    firsts = []
    for path, x in jax.tree.leaves_with_path(params):
        names = [key.key for key in path]
        if names[-1] in ("kernel", "rows", "unembedding"):
            stacked = names[1:2] == ["layers"]
            std = model.compute.init_std
            if set(names) & {"out", "down"}:
                std /= np.sqrt(2 * x.shape[0])
            assert x.std() == pytest.approx(std, rel=0.1), names
            assert abs(x.mean()) < 5 * std / np.sqrt(x.size)
            firsts += [float(row.ravel()[0] / std) for row in (x if stacked else x[None])]
        else:
            assert np.unique(x) == (1.0 if names[-1] == "scale" else 0.0), names
    assert len(set(firsts)) == len(firsts)


def test_logical_axes_fit_the_parameters():
    model = Model(resolve(BOTH, 32))
    shapes, axes = model.abstract_params(), model.logical_axes()
    jax.tree.map(lambda shape, names: np.testing.assert_equal(len(names), shape.ndim), shapes, axes)
    query = axes["decoder"]["layers"]["cross_attention"]["query"]["kernel"]
    assert query == ("layers", "embed", "heads", "head_dim")


def test_mistakes_are_named():
    model, params = make(GPT)
    with pytest.raises(UserError, match="16 positions"):
        model.apply(params, tokens(1, 17))
    with pytest.raises(UserError, match="encoder"):
        model.apply(params, tokens(), encoder_tokens=tokens())
    with pytest.raises(UserError, match="encoder"):
        model.encode(params, tokens())
    both, params = make(BOTH)
    with pytest.raises(UserError, match="encoder"):
        both.apply(params, tokens())
    with pytest.raises(UserError, match="decoder"):
        Model(resolve(BERT, 32)).init_cache(1, 8)


def test_flops_against_a_count_by_hand():
    """Llama-like, 16 wide: 4 heads of 4, 2 KV heads, MLP 64 wide, vocabulary of 32, 8 tokens."""
    layer = 16 * 4 * (4 + 2 + 2 + 4) + 3 * 16 * 64
    weights = 2 * layer + 32 * 16
    assert flops_per_token(resolve(LLAMA, 32), 8) == 6 * weights + 2 * 12 * 16 * 8
    windowed = replace(LLAMA, window=5)
    assert flops_per_token(windowed, 8) == 6 * weights + 2 * 12 * 16 * 5
    inner, attended = weights - 16 * 32, 2 * 12 * 16 * 8
    config = resolve(LLAMA, 32)
    assert flops_per_token(config, 8, lm_head=False) == 6 * inner + attended
    assert flops_per_token(config, 8, lm_head=False, backward=False) == 2 * inner + attended / 3
    adapted = replace(config, lora=LoraConfig(rank=3, targets=("query", "up")))
    added = 2 * 3 * (16 + 16 + 16 + 64)
    assert flops_per_token(adapted, 8) == 4 * weights + attended + 6 * added
