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
from llmjax.model.stages import check_microbatches, schedule_of
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import SgdConfig
from llmjax.parallel import mesh
from llmjax.parallel.collectives import collectives
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.state import TrainState
from llmjax.step import make_train_step

ROWS = 16
WINDOWS = replace(LLAMA, num_decoder_layers=4, window=5, global_layers=(1, 3), layer_d_ff=(32, 48) * 2)
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
        return jax.value_and_grad(lambda p: token_loss(model, p, rows, z_loss=1e-2).objective)(params)

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
