"""Multi-token prediction."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import LLAMA, MESHES, MLA, assert_close, batch, make, placed, tokens

from llmjax.convert.params import without_adapters
from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.flops import flops_per_token
from llmjax.model.moe_config import MoEConfig
from llmjax.model.params import param_specs
from llmjax.parallel.mesh import make_mesh

MODEL = replace(MLA, multi_token=True)
SPARSE = replace(
    MODEL,
    multi_token_experts=True,
    moe=MoEConfig(4, 1, 8, dense_layers=(0,), shared_width=8),
)


def loss_and_gradients(model, params, rows, weight=0.5):
    def loss(params):
        found = token_loss(model, params, rows, multi_token_weight=weight)
        return found.objective, found

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def test_the_objective_is_a_weighted_sum():
    model, params = make(MODEL)
    (total, loss), gradients = loss_and_gradients(model, params, batch(MODEL))
    plain = token_loss(model, params, batch(MODEL))
    assert plain.sums.keys() == {"loss", "accuracy"}
    assert loss.sums.keys() == {*plain.sums, "multi_token_loss", "multi_token_accuracy"}
    further = loss.sums["multi_token_loss"]
    assert_close(total, plain.objective + 0.5 * further.total, 1e-5)
    assert_close(loss.sums["loss"].total, plain.sums["loss"].total, 1e-6)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["multi_token"]))


def test_its_targets_are_those_of_the_next_token_of_the_same_document():
    """The two documents of a row have 3 and 4 tokens, of which the last ones have no target."""
    model, params = make(MODEL)
    rows = batch(MODEL)
    weights = np.asarray(rows["weights"])
    loss = token_loss(model, params, rows, multi_token_weight=1.0)
    expected = weights[:, 1:3].sum() + weights[:, 4:7].sum()
    assert_close(loss.sums["multi_token_loss"].weight, expected, 1e-6)

    def total(targets):
        found = token_loss(model, params, rows | {"targets": targets}, multi_token_weight=1.0)
        return found.sums["multi_token_loss"].total

    changed = rows["targets"].at[:, 6].add(1) % 32  # the last one of the second document
    assert abs(total(changed) - total(rows["targets"])) > 1e-3
    other = rows["targets"].at[:, 7].add(1) % 32  # padding
    assert_close(total(other), total(rows["targets"]), 1e-6)


@pytest.mark.parametrize("config", [MODEL, pytest.param(SPARSE, marks=pytest.mark.once)])
def test_meshes(config):
    """With rows split along their length too, in the order of a ring."""
    model, params = make(config, ComputeConfig(context_parallel="ring"))
    rows = batch(config)
    expected = loss_and_gradients(model, params, rows)
    with jax.set_mesh(make_mesh(MESHES["all"])):
        found = loss_and_gradients(model, placed(params, model), rows)
        assert_close(jax.device_get(found), jax.device_get(expected), 2e-5)


def test_the_model_is_the_same_without_it():
    model, params = make(MODEL)
    plain, _ = make(without_adapters(MODEL))
    rest = {name: part for name, part in params.items() if name != "multi_token"}
    assert_close(model.apply(params, tokens(2)), plain.apply(rest, tokens(2)), 1e-6)
    assert rest.keys() == plain.abstract_params().keys()


@pytest.mark.once
def test_its_layer_may_have_experts():
    model, params = make(SPARSE)
    assert "experts" in params["multi_token"]["stack"]["layers"]["mlp"]
    (_, loss), gradients = loss_and_gradients(model, params, batch(SPARSE))
    assert "multi_token_router_entropy" in loss.sums
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["multi_token"]))
    dense = replace(SPARSE, multi_token_experts=False)
    mlp = 3 * 16 * (dense.mlp_width - 16) - 16 * 4  # two experts of 8, and the router
    difference = flops_per_token(dense, 16) - flops_per_token(SPARSE, 16)
    assert difference == 6 * mlp


def test_flops_count_it():
    kernels = sum(
        np.prod(spec.shape.shape)
        for spec in param_specs(MODEL, ComputeConfig()).specs
        if spec.path[-1] in ("kernel", "rows")
    )
    head = MODEL.vocab_size * MODEL.d_model  # computed twice
    attended = 3 * 4 * 16 * (10 + 5)  # layers, heads, keys, widths
    assert flops_per_token(MODEL, 16, backward=False) == 2 * (kernels + head + attended)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="multi_token needs a decoder alone"):
        resolve(replace(LLAMA, multi_token=True, num_encoder_layers=1), 32)
    with pytest.raises(UserError, match="multi_token needs positions rotary"):
        resolve(replace(LLAMA, multi_token=True, positions="learned"), 32)
    with pytest.raises(UserError, match="multi_token_experts has no meaning without"):
        resolve(replace(LLAMA, multi_token=True, multi_token_experts=True), 32)
    model, params = make(LLAMA)
    with pytest.raises(UserError, match="has no module"):
        model.multi_token_hidden(params, jnp.zeros((2, 8, 16)), tokens(2))
