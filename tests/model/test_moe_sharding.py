"""Experts on any mesh compute what those of one device do."""

from dataclasses import replace

import jax
import pytest
from shapes import LLAMA, MESHES, assert_close, batch, make, placed

from llmjax.losses.token_loss import token_loss
from llmjax.model.moe_config import MoEConfig
from llmjax.parallel.mesh import make_mesh

SPARSE = replace(
    LLAMA,
    activation_limit=0.5,
    up_offset=1.0,
    moe=MoEConfig(
        num_experts=8,
        experts_per_token=3,
        expert_width=8,
        dense_layers=(0,),
        scores="sigmoid",
        groups=4,
        groups_per_token=2,
        selection_bias=True,
        router_bias=True,
        expert_bias=True,
        shared_width=8,
        shared_gate=True,
        balance_loss=0.1,
        z_loss=0.1,
        capacity_factor=1.25,
    ),
)


def loss_and_gradients(model, params, batch):
    def loss(params):
        sums = token_loss(model, params, batch)
        return sums.objective, sums

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.fixture(scope="module")
def one_device():
    return loss_and_gradients(*make(SPARSE), batch(SPARSE))


@pytest.mark.parametrize("name", ["fsdp", "all"])
def test_loss_and_gradients(name, one_device):
    model, params = make(SPARSE)
    with jax.set_mesh(make_mesh(MESHES[name])):
        spread = placed(params, model)
        loss, gradients = loss_and_gradients(model, spread, batch(SPARSE))
        same = jax.tree.map(lambda g, p: g.sharding.spec == p.sharding.spec, gradients, spread)
        assert jax.tree.all(same), "a gradient is sharded like its parameter"
        assert_close(jax.device_get((loss, gradients)), one_device, 1e-5)
