"""Experts on any mesh compute what those of one device do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from shapes import FLOAT32, LLAMA, MESHES, assert_close, batch, make, placed

from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.lora import LoraConfig
from llmjax.model.moe_config import MoEConfig
from llmjax.model.params import check_mesh
from llmjax.parallel.mesh import MeshConfig, make_mesh

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


SEVERAL_ROUNDS = ComputeConfig(expert_buffer=0.3)
"""Of an equal share: each device sends four times at least."""

CASES = {
    "fsdp": (MESHES["fsdp"], FLOAT32),
    "all but experts": (MESHES["all"], FLOAT32),
    "experts": (MeshConfig(expert=8, fsdp=1), FLOAT32),
    "experts x data": (MeshConfig(expert=4, data=2, fsdp=1), SEVERAL_ROUNDS),
    "experts x fsdp x tensor": (MeshConfig(expert=2, fsdp=2, tensor=2), SEVERAL_ROUNDS),
    "experts x sequence x fsdp": (MeshConfig(expert=2, sequence=2, fsdp=2), FLOAT32),
}


@pytest.mark.parametrize(("sizes", "compute"), CASES.values(), ids=CASES.keys())
def test_loss_and_gradients(sizes, compute, one_device):
    model, params = make(SPARSE, compute)
    with jax.set_mesh(make_mesh(sizes)):
        spread = placed(params, model)
        loss, gradients = loss_and_gradients(model, spread, batch(SPARSE))
        same = jax.tree.map(lambda g, p: g.sharding.spec == p.sharding.spec, gradients, spread)
        assert jax.tree.all(same), "a gradient is sharded like its parameter"
        assert_close(jax.device_get((loss, gradients)), one_device, 1e-5)


def test_every_token_on_one_device_is_not_dropped():
    """All choose its experts: the fullest pair of devices has all choices of one."""
    bias = jnp.where(jnp.arange(8) < 2, 10.0, 0.0)
    model, params = make(replace(SPARSE, moe=MoEConfig(8, 2, 8, selection_bias=True)), FLOAT32)
    params = jax.tree.map_with_path(
        lambda path, x: x * 0 + bias if path[-1].key == "selection_bias" else x, params
    )
    row = batch(SPARSE)
    alone = jax.jit(model.apply)(params, row["inputs"])
    with jax.set_mesh(make_mesh(MeshConfig(expert=4, fsdp=2))):
        spread = jax.jit(model.apply)(placed(params, model), row["inputs"])
        assert_close(jax.device_get(spread), alone, 1e-5)


def test_a_model_without_experts_is_refused():
    with jax.set_mesh(make_mesh(MeshConfig(expert=2))), pytest.raises(UserError) as caught:
        check_mesh(resolve(LLAMA, 32), FLOAT32)
    assert "mesh.expert=2" in str(caught.value)


ADAPTED = replace(SPARSE, lora=LoraConfig(rank=4, targets=("gate", "up", "down")))


@pytest.mark.parametrize("name", ["experts x fsdp x tensor", "experts x data"])
def test_adapters_of_experts(name):
    model, params = make(ADAPTED, FLOAT32)
    leaves, tree = jax.tree.flatten(params)
    params = jax.tree.unflatten(tree, [x + 0.01 for x in leaves])  # where B is zero, A has no slope
    expected = loss_and_gradients(model, params, batch(ADAPTED))
    sizes, compute = CASES[name]
    model = make(ADAPTED, compute)[0]
    with jax.set_mesh(make_mesh(sizes)):
        spread = placed(params, model)
        found = loss_and_gradients(model, spread, batch(ADAPTED))
        same = jax.tree.map(lambda g, p: g.sharding.spec == p.sharding.spec, found[1], spread)
        assert jax.tree.all(same), "a gradient is sharded like its parameter"
        assert_close(jax.device_get(found), expected, 1e-5)
