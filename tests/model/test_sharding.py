"""Any mesh computes what one device does; what does not divide is refused by name."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from shapes import BOTH, FLOAT32, LLAMA, MESHES, assert_close, batch, make, placed

from llmjax.errors import UserError
from llmjax.losses import fused
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.model import Model
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig, make_mesh, mesh_of
from llmjax.parallel.topology import Factors

RICH = replace(BOTH, num_kv_heads=2, lm_head_bias=True, positions="rotary", qkv_bias=True)
PLAIN = replace(LLAMA, num_kv_heads=2, positions="learned")
ODD = replace(
    RICH,
    positions="relative",
    relative_buckets=8,
    relative_max_distance=10,
    norm_placement="sandwich",
    qk_norm_over="projection",
    lm_head_transform=True,
    attention_softcap=None,
    window=None,
)
COMPUTE = {PLAIN: ComputeConfig(remat="full", attention="blocked")}
CASES = [(PLAIN, name) for name in ("data", "fsdp", "tensor", "sequence")]
CASES += [(RICH, "all"), (ODD, "all")]


def loss_and_gradients(model, params, batch):
    def loss(params):
        sums = token_loss(model, params, batch, z_loss=1e-2, label_smoothing=0.1)
        return sums.objective, sums

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.fixture(scope="module")
def one_device():
    """Loss and gradients on one device, by config."""
    return {
        c: loss_and_gradients(*make(c, COMPUTE.get(c, FLOAT32)), batch(c))
        for c in (PLAIN, RICH, ODD)
    }


@pytest.mark.parametrize(
    ("config", "name"), CASES, ids=["data", "fsdp", "tensor", "sequence", "all", "odd"]
)
def test_loss_and_gradients(config, name, one_device):
    model, params = make(config, COMPUTE.get(config, FLOAT32))
    with jax.set_mesh(make_mesh(MESHES[name])):
        spread = placed(params, model)
        loss, gradients = loss_and_gradients(model, spread, batch(config))
        same = jax.tree.map(lambda g, p: g.sharding.spec == p.sharding.spec, gradients, spread)
        assert jax.tree.all(same), "a gradient is sharded like its parameter"
        assert_close(jax.device_get((loss, gradients)), one_device[config], 1e-5)


def test_the_gradient_of_the_head_in_blocks(one_device, monkeypatch):
    """Blocks that overlap, of a part of the vocabulary, with bias, soft-cap, smoothing, z-loss."""
    monkeypatch.setattr("llmjax.losses.fused.LARGE_GRADIENT", 0)
    monkeypatch.setattr("llmjax.losses.fused.ROW_BYTES", 4 * 6 * 16)
    used, in_blocks = [], fused._gradients_in_blocks

    def spy(inputs, *rest):
        used.append(inputs.rows.shape)
        return in_blocks(inputs, *rest)

    monkeypatch.setattr(fused, "_gradients_in_blocks", spy)
    model, params = make(RICH, replace(FLOAT32, remat="full"))
    with jax.set_mesh(make_mesh(MESHES["all"])):
        found = loss_and_gradients(model, placed(params, model), batch(RICH))
        assert_close(jax.device_get(found), one_device[RICH], 1e-5)
    assert set(used) == {(16, 8)}, "half of the rows, of them half of the columns"


def test_gradients_and_tensor_parallel_sums_travel_in_the_stated_dtype(one_device):
    """Each device's sums are rounded once, and the sum of devices has that dtype too."""
    for name, dtype in (("fsdp", "auto"), ("fsdp", "bfloat16"), ("tensor", "bfloat16")):
        compute = replace(COMPUTE[PLAIN], reduce_dtype=dtype)
        model, params = make(PLAIN, compute)
        with jax.set_mesh(make_mesh(MESHES[name])):
            _, gradients = loss_and_gradients(model, placed(params, model), batch(PLAIN))
        narrow = [
            (np.asarray(leaf) == np.asarray(leaf.astype("bfloat16"), np.float32)).all()
            for leaf in jax.tree.leaves(gradients)
            if leaf.ndim > 2  # the kernels of layers
        ]
        assert set(narrow) == {dtype == "bfloat16"}
        if dtype == "bfloat16":
            assert_close(jax.device_get(gradients), one_device[PLAIN][1], 2e-2)


def test_an_axis_split_into_several_mesh_axes(one_device):
    """fsdp through three dimensions of a torus, with tensor parallelism beside it."""
    model, params = make(PLAIN, COMPUTE[PLAIN])
    devices = np.array(jax.devices()[:8]).reshape(1, 1, 4, 1, 1, 2)
    with jax.set_mesh(mesh_of(devices, {"fsdp": Factors(1, (2, 1, 2))})):
        spread = placed(params, model)
        loss, gradients = loss_and_gradients(model, spread, batch(PLAIN))
        same = jax.tree.map(lambda g, p: g.sharding.spec == p.sharding.spec, gradients, spread)
        assert jax.tree.all(same), "a gradient is sharded like its parameter"
        assert_close(jax.device_get((loss, gradients)), one_device[PLAIN], 1e-5)


def test_parameters_are_created_sharded_and_equal():
    model = Model(resolve(LLAMA, 32))
    unsharded = jax.jit(model.init)(jax.random.key(0))
    with jax.set_mesh(make_mesh(MESHES["tensor"])):
        spread = jax.jit(model.init)(jax.random.key(0))
        jax.tree.map(
            lambda x, a: (x.sharding == a.sharding) or pytest.fail(f"{x} {a}"),
            spread,
            model.abstract_params(),
        )
    up = spread["decoder"]["layers"]["mlp"]["up"]["kernel"]
    assert up.addressable_shards[0].data.shape == (2, 4, 32), "fsdp=4 by tensor=2"
    assert_close(jax.device_get(spread), jax.device_get(unsharded), 1e-7)


def test_what_does_not_divide_is_named():
    model = Model(resolve(replace(LLAMA, num_heads=6, num_kv_heads=2, d_model=24, d_ff=36), 32))
    with jax.set_mesh(make_mesh(MeshConfig(tensor=8))), pytest.raises(UserError) as caught:
        model.abstract_params()
    for part in ("attention.query.kernel", "attention.key.kernel", "mlp.up.kernel", "tensor=8"):
        assert part in str(caught.value)
    assert "embedding" not in str(caught.value)
    with jax.set_mesh(make_mesh(MeshConfig(tensor=8))), pytest.raises(UserError):
        jax.eval_shape(model.init, jax.random.key(0))


def test_rows_that_do_not_divide_are_named():
    model, params = make(LLAMA)
    with jax.set_mesh(make_mesh(MESHES["tensor"])):
        for shape, word in (((6, 8), "batch"), ((8, 7), "residual")):
            with pytest.raises(UserError, match=word):
                model.apply(placed(params, model), np.zeros(shape, np.int32))


def test_the_residual_stream_is_split_over_tensor():
    """Between blocks, activations are split along the length over the tensor axis too."""
    model, params = make(LLAMA)
    with jax.set_mesh(make_mesh(MESHES["tensor"])):
        out = jax.eval_shape(model.hidden, placed(params, model), np.zeros((8, 8), np.int32))
        assert out.sharding.spec == mesh.logical_spec("batch", "residual", None)
