"""Collectives in the text of compiled programs, and those of a split axis."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from llmjax.model.compute import Precision
from llmjax.model.products import dense
from llmjax.parallel import mesh
from llmjax.parallel.collectives import Collective, collectives
from llmjax.parallel.mesh import mesh_of
from llmjax.parallel.topology import Factors

AXES = ("embed", "mlp")
OUT = ("batch", "length", "mlp")

GROUPS = {
    "{{0,4},{1,5},{2,6},{3,7}}": ("a",),
    "{{0,2},{1,3},{4,6},{5,7}}": ("b",),
    "[4,2]<=[8]": ("c",),
    "[2,4]<=[4,2]T(1,0)": ("a", "b"),
    "[4,2]<=[2,4]T(1,0)": ("a",),
    "mesh['axis_0'=2,'axis_1'=4] {'axis_0'}": ("a",),
    "mesh['axis_0'=2,'axis_1'=4] {'axis_1':(1)2}": ("b",),
    "mesh['axis_0'=2,'axis_1'=4] {'axis_1':(2)2}": ("c",),
    "mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}": ("c",),
    "{}": ("a", "b", "c"),
}
LOOP = """\
HloModule step, entry_computation_layout={(f32[4]{0})->f32[32]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
}

%all-reduce-scatter.1 (input: f32[64,8]) -> f32[32,8] {
  %all-reduce.5 = f32[64,8]{1,0:T(8,128)S(1)} all-reduce(%input), channel_id=7, replica_groups=[4,2]<=[8], to_apply=%add
}

%limit (i: s32[]) -> pred[] {
  %constant.9 = s32[]{:T(128)} constant(5)
  ROOT %compare = pred[] compare(%i, %constant.9), direction=LT
}

%condition (state: (s32[], f32[4])) -> pred[] {
  ROOT %fusion.9 = pred[]{:T(512)} fusion(%i), kind=kLoop, calls=%limit
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %gather = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=3, replica_groups=[4,2]<=[8], dimensions={0}
  %fusion.1 = f32[32,8]{1,0} fusion(%gather), kind=kCustom, calls=%all-reduce-scatter.1
}

ENTRY %main.1 (x: f32[4]) -> f32[32] {
  %while.1 = (s32[], f32[4]{0}) while(%tuple), condition=%condition, body=%body
  %sum = (f32[3]{0}, f32[5]{0}) all-reduce(%a, %b), channel_id=4, replica_groups={}, to_apply=%add
  %start = (f32[4]{0}, f32[4]{0}) collective-permute-start(%x), channel_id=5, source_target_pairs={{0,1},{1,0}}
  %alone = f32[4]{0} all-reduce(%x), channel_id=6, replica_groups=[8,1]<=[8], to_apply=%add
}
"""  # noqa: E501


def cube(names=("a", "b", "c")):
    types = (AxisType.Explicit,) * 3
    return Mesh(np.array(jax.devices()[:8]).reshape(2, 2, 2), names, axis_types=types)


@pytest.mark.parametrize("groups", GROUPS)
def test_groups_are_named_by_mesh_axes(groups):
    text = (
        "ENTRY %main (x: f32[2]) -> f32[2] {\n"
        f"  %r = f32[2]{{0}} all-reduce(%x), channel_id=2, replica_groups={groups}, to_apply=%add\n"
        "}\n"
    )
    (found,) = collectives(text, cube())
    assert found.axes == GROUPS[groups]
    assert found.devices == 2 ** len(found.axes)


def test_scatters_of_an_unrolled_loop_are_counted_one_by_one():
    """The compiler leaves both the channel of the one that it copied."""
    scatter = LOOP[LOOP.index("%all-reduce-scatter.1 ") : LOOP.index("%limit")]
    copy = scatter.replace("scatter.1", "scatter.2").replace("reduce.5", "reduce.6")
    call = (
        "  %fusion.1 = f32[32,8]{1,0} fusion(%gather), kind=kCustom, calls=%all-reduce-scatter.1\n"
    )
    both = LOOP.replace(call, call + call.replace("fusion.1", "fusion.2").replace("r.1\n", "r.2\n"))
    found = collectives(both.replace(scatter, scatter + copy), cube())
    scatters = [each for each in found if each.kind == "reduce-scatter"]
    assert [each.total_bytes for each in scatters] == [5 * 2048] * 2


def test_loops_count_as_often_as_they_run_and_bytes_are_of_whole_arrays():
    found = {each.kind: each for each in collectives(LOOP, cube())}
    assert found == {
        "all-gather": Collective("all-gather", ("c",), 2, 1, 5, 256),
        "reduce-scatter": Collective("reduce-scatter", ("c",), 2, 1, 5, 2048, is_async=True),
        "all-reduce": Collective("all-reduce", ("a", "b", "c"), 8, 1, 1, 32),
        "collective-permute": Collective("collective-permute", ("c",), 2, 1, 1, 16, is_async=True),
    }
    assert found["all-gather"].wire_bytes == 5 * 256 / 2
    assert found["all-reduce"].wire_bytes == 2 * 32 * 7 / 8


SPLIT = {
    "torus": Factors(1, (2, 2, 2)),
    "slices": Factors(2, (2, 2, 1)),
}
STEPS = {
    "torus": [("fsdp_z",), ("fsdp_y",), ("fsdp",)],
    "slices": [("fsdp_slices",), ("fsdp_y",), ("fsdp",)],
}


@pytest.mark.parametrize("name", SPLIT)
def test_a_split_axis_is_gathered_and_scattered_step_by_step(name):
    """In the compiled program of a projection and its gradient, equal to those of one device."""
    x = jax.random.normal(jax.random.key(0), (8, 4, 16))
    kernel = jax.random.normal(jax.random.key(1), (16, 8))

    def loss(kernel, x):
        return (
            dense(x, kernel, None, axes=AXES, out=OUT, precision=Precision("float32")).sum() ** 2
            / 100
        )

    expected = jax.jit(jax.grad(loss, (0, 1)))(kernel, x)
    devices = mesh_of(np.array(jax.devices()[:8]).reshape(1, 1, 8, 1, 1, 1), {"fsdp": SPLIT[name]})
    with jax.set_mesh(devices):
        args = (
            jax.device_put(kernel, mesh.named_sharding(devices, *AXES)),
            jax.device_put(x, mesh.named_sharding(devices, "batch", "length", None)),
        )
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*args).compile()
        gradients = compiled(*args)
    assert gradients[0].sharding == args[0].sharding
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), gradients, expected)
    found = [each for each in collectives(compiled.as_text(), devices) if each.nbytes > 4]
    gathers = [each for each in found if each.kind == "all-gather"]
    assert {each.axes: each.nbytes for each in gathers} == dict(
        zip(STEPS[name], (128, 256, 512), strict=True)
    )
    sums = {each.axes: each.nbytes for each in found if each.kind != "all-gather"}
    assert sums == dict(zip(STEPS[name][::-1], (512, 256, 128), strict=True)), "halves of halves"
