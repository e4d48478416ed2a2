"""Stacks as patterns of layer types."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import BOTH, LLAMA, batch, make, source, tokens

from llmjax.losses.token_loss import token_loss
from llmjax.model import block
from llmjax.model.aux_sums import AuxSum, add_aux, penalty
from llmjax.model.checks import resolve
from llmjax.model.layer_types import layer_groups, layer_pattern, layer_types
from llmjax.model.mlp import MLP
from llmjax.model.model import Model
from llmjax.model.params import unstack_layers

LONG = replace(LLAMA, num_decoder_layers=19, layer_d_ff=(48, *(16, 32, 32) * 6))
"""A different first layer, then a period of three, long enough to be scanned."""
SHORT = replace(LLAMA, num_decoder_layers=4, layer_d_ff=(48, 16, 16, 32))
PAIR = replace(BOTH, num_encoder_layers=2, layer_d_ff=(16, 48))


def test_the_shortest_period_after_a_head():
    assert layer_pattern(layer_types(LONG, 19)) == (1, 3, 6)
    assert layer_pattern(layer_types(LLAMA, 12)) == (0, 1, 12)
    gemma = replace(LLAMA, window=4, global_layers=(5, 11), num_decoder_layers=14)
    assert layer_pattern(layer_types(gemma, 14)) == (0, 6, 2)


def test_layers_of_one_shape_are_one_group():
    assert layer_groups(layer_types(LLAMA, 2)) == {"layers": (0, 1)}
    assert layer_groups(layer_types(SHORT, 4)) == {
        "layers_48": (0,),
        "layers_16": (1, 2),
        "layers_32": (3,),
    }


def widened(config, params):
    """The same function with all MLPs padded by zeros to the largest width."""
    width, wide = max(config.layer_d_ff), dict(params)
    for name in {"encoder", "decoder"} & set(params):
        stack, types = dict(params[name]), layer_types(config, len(config.layer_d_ff))
        layers: dict[int, dict] = {}
        for group, numbers in layer_groups(types).items():
            part = stack.pop(group)
            for index, number in enumerate(numbers):
                layers[number] = jax.tree.map(lambda x, index=index: x[index], part)
        for layer in layers.values():
            for projection, axis in (("gate", 1), ("up", 1), ("down", 0)):
                if projection in layer["mlp"]:
                    kernel = layer["mlp"][projection]["kernel"]
                    padding = [(0, 0), (0, 0)]
                    padding[axis] = (0, width - kernel.shape[axis])
                    layer["mlp"][projection]["kernel"] = jnp.pad(kernel, padding)
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(layers[i] for i in range(len(layers))))
        wide[name] = stack | {"layers": stacked}
    return Model(resolve(replace(config, layer_d_ff=(), d_ff=width), 32)), wide


@pytest.mark.once
@pytest.mark.parametrize("config", [LONG, SHORT, PAIR], ids=["scanned", "unrolled", "both"])
def test_widths_by_layer_compute_as_zeros_would(config):
    model, params = make(config)
    same, wide = widened(config, params)
    inputs = source(config)
    out = jax.jit(model.apply)(params, tokens(), **inputs)
    np.testing.assert_allclose(out, jax.jit(same.apply)(wide, tokens(), **inputs), atol=2e-4)


def test_widths_by_layer_decode_as_they_train():
    model, params = make(SHORT)
    expected = jax.jit(model.apply)(params, tokens())
    split = unstack_layers(jax.tree.map(jnp.array, params))
    positions = jnp.broadcast_to(jnp.arange(8), (8, 8))
    for held in (params, split):
        logits, _ = jax.jit(model.decode)(held, tokens(), positions, model.init_cache(8, 8))
        np.testing.assert_allclose(logits, expected, atol=2e-4)


def test_adding_aux():
    x, y = jnp.float32(1), jnp.float32(2)
    assert add_aux({}, {}) == {}
    total = add_aux({"router": AuxSum(x, y, x)}, {"router": penalty(y, y, 2.0), "z": (x, x, y)})
    assert total == {"router": (3, 4, 5), "z": (1, 1, 2)}


class Counting(MLP):
    """An MLP that adds a sum to the loss, as a router does."""

    def __call__(self, x, sharding):
        y, _ = super().__call__(x, sharding)
        squares = jnp.square(y.astype(jnp.float32)).sum()
        return y, {"zeros": penalty(squares, jnp.float32(y.size), 1.0)}


@pytest.mark.parametrize("layers", [3, 19], ids=["unrolled", "scanned"])
def test_sums_of_layers_reach_the_loss(layers, monkeypatch):
    monkeypatch.setattr(block, "MLP", Counting)
    config = replace(LLAMA, num_decoder_layers=layers, norm_epsilon=1e-6 * (1 + layers))
    model, params = make(config)
    states, aux = jax.jit(model.hidden_and_aux)(params, tokens())
    total, weight, _ = aux["zeros"]
    assert weight == layers * states.size
    assert total > 0
    gradients = jax.grad(lambda p: model.hidden_and_aux(p, tokens()).aux["zeros"][0])(params)
    assert jnp.abs(gradients["decoder"]["layers"]["mlp"]["down"]["kernel"]).max() > 0


def test_sums_of_layers_are_added_to_the_loss_and_reported(monkeypatch):
    plain = replace(LLAMA, norm_epsilon=3e-6)
    model, params = make(plain)
    before = token_loss(model, params, batch(plain))
    monkeypatch.setattr(block, "MLP", Counting)
    counted = replace(LLAMA, norm_epsilon=3e-6 * (1 + 1e-9))
    model, params = make(counted)
    after = token_loss(model, params, batch(counted))
    total, weight = after.sums["zeros"]
    added = (after.objective - before.objective) / before.weight
    assert added == pytest.approx(float(total / weight), rel=1e-3)
    assert before.sums.keys() == {"loss", "accuracy"}
