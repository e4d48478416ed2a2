"""Stages of a pipeline compute what one device does, and what they cannot is refused by name."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from shapes import BERT, BOTH, LLAMA, assert_close, batch, make, placed, tokens

import pretend
from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.model import Model
from llmjax.model.moe_config import MoEConfig
from llmjax.model.stages import check_microbatches, schedule_of
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import SgdConfig
from llmjax.parallel import mesh
from llmjax.parallel.collectives import collectives
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.parallel.topology import Factors
from llmjax.state import TrainState
from llmjax.step import make_train_step

ROWS = 16
WINDOWS = replace(
    LLAMA, num_decoder_layers=4, window=5, global_layers=(1, 3), layer_d_ff=(32, 48) * 2
)
PLAIN = replace(LLAMA, num_decoder_layers=4)
ENCODER = replace(BERT, num_encoder_layers=4)
REMAT = {"remat": "full", "attention": "blocked"}
CASES = {
    "2 x data": (WINDOWS, MeshConfig(stage=2, data=4, fsdp=1), ComputeConfig()),
    "4 x fsdp": (ENCODER, MeshConfig(stage=4, fsdp=2), ComputeConfig(**REMAT)),
    "2 x tensor x fsdp, rounds": (
        PLAIN,
        MeshConfig(stage=2, fsdp=2, tensor=2),
        ComputeConfig(pipeline_rounds=2, pipeline_microbatches=4, **REMAT),
    ),
    "2 x data x fsdp, experts": (
        replace(PLAIN, moe=MoEConfig(4, 2, expert_width=24, dense_layers=(0, 2), shared_width=16)),
        MeshConfig(stage=2, expert=2, fsdp=2),
        ComputeConfig(),
    ),
    "2 x sequence x fsdp, rounds": (
        PLAIN,
        MeshConfig(stage=2, fsdp=2, sequence=2),
        ComputeConfig(pipeline_rounds=2),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_step(case):
    config, sizes, compute = case
    model, params = make(config, compute)
    rows = jax.tree.map(np.asarray, batch(config, ROWS))

    def gradients(params, rows):
        return jax.value_and_grad(lambda p: token_loss(model, p, rows, z_loss=1e-2).objective)(
            params
        )

    expected = jax.jit(gradients)(params, rows)
    devices = make_mesh(sizes)
    with jax.set_mesh(devices):
        spread = placed(params, model)
        rows = {k: mesh.place(v, devices, "batch", "length") for k, v in rows.items()}
        compiled = jax.jit(gradients).lower(spread, rows).compile()
        found = compiled(spread, rows)
        same = jax.tree.map(lambda g, p: g.sharding.spec == p.sharding.spec, found[1], spread)
        assert jax.tree.all(same), "a gradient is sharded like its parameter"
        assert_close(jax.device_get(found), jax.device_get(expected), 1e-5)
    between = [c for c in collectives(compiled.as_text(), devices) if "stage" in c.axes]
    layer = model.num_params() / 8
    for each in between:
        assert each.kind != "all-gather" or each.nbytes < layer, "weights are not gathered"
    assert any(each.kind == "collective-permute" for each in between)


def test_stages_beside_an_axis_split_into_several_mesh_axes():
    """fsdp through three dimensions of a torus, whose gradients are scattered one after another."""
    model, params = make(PLAIN, ComputeConfig())
    rows = jax.tree.map(np.asarray, batch(PLAIN, ROWS))

    def gradients(params, rows):
        return jax.grad(lambda p: token_loss(model, p, rows).objective)(params)

    expected = jax.jit(gradients)(params, rows)
    places = np.array(jax.devices()[:8]).reshape(1, 2, 4, 1, 1, 1)
    devices = mesh.mesh_of(places, {"fsdp": Factors(1, (2, 1, 2))})
    with jax.set_mesh(devices):
        rows = {k: mesh.place(v, devices, "batch", "length") for k, v in rows.items()}
        found = jax.jit(gradients)(placed(params, model), rows)
    assert_close(jax.device_get(found), jax.device_get(expected), 1e-5)


def test_decoding_gathers_layers():
    """With a cache, each layer is gathered from its stage where it is used."""
    model, params = make(PLAIN)
    row = tokens(8, 5)

    def logits(params, row):
        cache = model.init_cache(8, 6)
        positions = np.broadcast_to(np.arange(5), row.shape)
        return model.decode(params, row, positions, cache)[0]

    expected = jax.jit(logits)(params, row)
    with jax.set_mesh(make_mesh(MeshConfig(stage=2, fsdp=4))):
        found = jax.jit(logits)(placed(params, model), row)
    assert_close(jax.device_get(found), jax.device_get(expected), 1e-5)


def test_parameters_are_created_on_their_stages():
    model = Model(resolve(WINDOWS, 32))
    unsharded = jax.jit(model.init)(jax.random.key(0))
    with jax.set_mesh(make_mesh(MeshConfig(stage=2, fsdp=4))):
        spread = jax.jit(model.init)(jax.random.key(0))
        jax.tree.map(
            lambda x, a: x.sharding == a.sharding or pytest.fail(f"{x} {a}"),
            spread,
            model.abstract_params(),
        )
    up = spread["decoder"]["layers_48"]["mlp"]["up"]["kernel"]
    assert up.addressable_shards[0].data.shape == (1, 4, 48)
    assert_close(jax.device_get(spread), jax.device_get(unsharded), 1e-7)


REFUSED = {
    "4 layers": (PLAIN, ComputeConfig(pipeline_rounds=4), "4 layers: do not divide over"),
    "kinds": (WINDOWS, ComputeConfig(pipeline_rounds=2), "layer 1 differs from layer 0 in window"),
    "a further layer": (replace(PLAIN, multi_token=True), ComputeConfig(), "model.multi_token"),
    "two stacks": (replace(BOTH, num_encoder_layers=2), ComputeConfig(), "an encoder-decoder"),
    "microbatches": (PLAIN, ComputeConfig(pipeline_microbatches=3), "is no multiple of mesh.stage"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_split_is_refused(case):
    config, compute, message = case
    with jax.set_mesh(make_mesh(MeshConfig(stage=2))), pytest.raises(UserError) as caught:
        Model(resolve(config, 32), compute).abstract_params()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_small_batches_have_fewer_microbatches():
    compute = ComputeConfig(pipeline_microbatches=8, pipeline_rounds=2)
    assert schedule_of(compute, 4, 32) == (4, 8, 2)
    assert schedule_of(compute, 4, 12) == (4, 4, 2), "8 does not divide 12"
    assert schedule_of(compute, 4, 4) == (4, 4, 2)
    assert schedule_of(replace(compute, pipeline_microbatches=None), 4, 12) == (4, 12, 2)
    check_microbatches(compute, 4, 32)
    with pytest.raises(UserError, match="does not divide the 12 rows"):
        check_microbatches(compute, 4, 12)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_kernels_run_in_stages(platform):
    """A training step with fused attention and dropout lowers; kernels are on a stage's devices."""
    compute = ComputeConfig(dtype="bfloat16", remat="full", dropout=0.1, pipeline_rounds=2)
    config = replace(PLAIN, d_model=256, num_heads=4, num_kv_heads=2, max_length=256)
    model = Model(resolve(config, 32), compute)
    optimizer = make_optimizer(SgdConfig(momentum=0.0), 10, model.logical_axes())

    def loss(params, batch, key):
        return token_loss(model, params, batch, dropout_key=key)

    step = make_train_step(loss, optimizer, seed=0, accumulate=2)
    with pretend.devices(platform, stage=2, fsdp=2, tensor=2):
        params = pretend.params_of(model)
        state = TrainState(np.int32(0), params, jax.eval_shape(optimizer.init, params))
        traced = step.trace(state, pretend.packed(32, 256), None)
        assert pretend.kernels(traced)[pretend.PALLAS] > 0
        text = pretend.lowered(traced, platform)
    assert "collective_permute" in text
