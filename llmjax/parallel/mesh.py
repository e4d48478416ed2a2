"""The device mesh, and the one table from logical to mesh axes.

Every parameter and activation names its logical axes where it is created. Only this file says over
which mesh axes they are split. Meshes have Explicit axis types, so a sharding is part of an array's
type, and a mistake is an error while tracing, not a slow program.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from llmjax.errors import UserError
from llmjax.parallel.devices import devices as all_devices
from llmjax.parallel.steps import gather_steps
from llmjax.parallel.topology import Factors, arrange, factors_of

Axes = tuple[str | None, ...]

MESH_AXES = ("data", "stage", "fsdp", "expert", "sequence", "tensor")

OPTIONAL_AXES = ("stage", "expert")
"""Axes that a mesh with one device along them does not have."""

SUB_AXES: dict[str, tuple[str, ...]] = {"fsdp": ("fsdp", "fsdp_y", "fsdp_z", "fsdp_slices")}
"""Axis -> the mesh axes that take its place where it runs through all three dimensions of a torus:
those, and the slices. Weights are gathered along one after another, the last one here first, and
gradients scattered in the reverse order, since TPU compilers turn a collective over three at once
into an all-reduce of the whole array. Configs, checkpoints and messages know only the axis."""

# Parameters: "embed" is the model dimension of a stored weight. It is split over fsdp and gathered
# just before use (its logical name is then "gathered"), so the gradient is reduce-scattered. The
# devices of the expert axis share the batch and the other weights as those of fsdp do, but each
# has experts of its own, whose model dimension is therefore "expert_embed"; the devices that share
# the rows of an expert are "expert_batch".
# Activations: the residual stream is split along its length over tensor as well ("residual"), which
# turns the all-reduce after each block into a reduce-scatter and divides its memory. Rows are split
# over stages too, except inside a pipeline (see `llmjax.parallel.pipeline`), where each stage has
# all rows of a microbatch.
LOGICAL_TO_MESH: dict[str, tuple[str, ...]] = {
    "batch": ("stage", "data", "fsdp", "expert"),
    "length": ("sequence",),
    "residual": ("sequence", "tensor"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "experts": ("expert",),
    "expert_embed": ("fsdp",),
    "expert_batch": ("stage", "data", "fsdp"),
    "router": (),
    "selection": (),
    "vocab": ("tensor",),
    "embed": ("fsdp", "expert"),
    "gathered": (),
    "head_dim": (),
    "layers": ("stage",),
    "positions": (),
}

WEIGHT_AXES = frozenset({"embed", "expert_embed"})
"""Logical axes of the model dimension of stored weights."""


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1: all remaining devices."""

    data: int = 1
    """Replicas of the model, each with its share of the batch."""
    fsdp: int = -1
    """Devices that share the batch and also split parameters and optimizer state."""
    sequence: int = 1
    """Devices that split each row along its length (context parallelism)."""
    tensor: int = 1
    """Devices that split heads, MLP width and vocabulary (tensor parallelism)."""
    stage: int = 1
    """Devices that split the layers (pipeline parallelism): microbatches pass from one to the next;
    see compute.pipeline_microbatches."""
    expert: int = 1
    """Devices that split the experts of a mixture (expert parallelism), and share the batch and
    the other weights as those of fsdp do: tokens are sent to the devices of their experts."""
    across_slices: Literal["data", "stage", "fsdp", "expert", "sequence", "tensor"] | None = None
    """The axis between slices (TPU slices, NVLink domains), whose collectives cross the slow
    network. none: data, and what it leaves to stage, fsdp, expert, sequence and tensor in this
    order."""


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh over `devices` (default: all of them, of every process).

    Raises:
      UserError: the sizes are not positive, their product is not the number of devices, they do
        not divide over the slices, or the requested platform is not available.
    """
    devices = all_devices() if devices is None else list(devices)
    sizes = mesh_sizes(config, len(devices), devices[0].platform)
    arranged = arrange(devices, sizes, config.across_slices)
    factors = {axis: factors_of(arranged, MESH_AXES.index(axis)) for axis in SUB_AXES}
    return mesh_of(arranged, {a: found for a, found in factors.items() if len(found.torus) == 3})


def mesh_sizes(config: MeshConfig, count: int, platform: str) -> dict[str, int]:
    """The number of devices along each axis, of `count` devices.

    Raises:
      UserError: the sizes are not positive, or their product is not the number of devices.
    """
    sizes = {axis: getattr(config, axis) for axis in MESH_AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    wrong = [f"{axis}={size}" for axis, size in sizes.items() if size < 1 and size != -1]
    if wrong or len(free) > 1:
        raise UserError(
            f"mesh {sizes}",
            "sizes must be positive, and at most one may be -1",
            "give each axis its number of devices",
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free and count % fixed == 0:
        sizes[free[0]] = count // fixed
    if math.prod(sizes.values()) != count:
        raise UserError(
            "mesh " + ",".join(f"{axis}={size}" for axis, size in present(sizes).items()),
            f"does not fit {count} {platform} devices",
            f"choose sizes whose product is {count}, or divides it if one of them is -1",
        )
    return sizes


def mesh_of(devices: np.ndarray, factors: Mapping[str, Factors]) -> Mesh:
    """Names the axes of arranged devices.

    Args:
      devices: of the shape of `MESH_AXES`.
      factors: of each axis that becomes its `SUB_AXES`.
    """
    sizes: dict[str, int] = {}
    for axis, size in zip(MESH_AXES, devices.shape, strict=True):
        if axis in factors:
            *torus, slices = SUB_AXES[axis]
            split = {slices: factors[axis].slices} if factors[axis].slices > 1 else {}
            sizes |= split | dict(zip(torus, factors[axis].torus, strict=True))
        else:
            sizes |= present({axis: size})
    types = (AxisType.Explicit,) * len(sizes)
    return Mesh(devices.reshape(*sizes.values()), tuple(sizes), axis_types=types)


def present(sizes: Mapping[str, int]) -> dict[str, int]:
    """The axes that a mesh of these sizes has, of the axes of the config."""
    return {axis: size for axis, size in sizes.items() if size != 1 or axis not in OPTIONAL_AXES}


def axis_sizes(mesh: Mesh | AbstractMesh) -> dict[str, int]:
    """The number of devices along each axis of the config."""
    return {
        axis: math.prod(mesh.shape[name] for name in _sub_axes(axis, mesh)) for axis in MESH_AXES
    }


def _sub_axes(axis: str, mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The names in `mesh` of an axis of the config: several where it is split."""
    names = SUB_AXES.get(axis, (axis,))
    always = () if axis in OPTIONAL_AXES else (axis,)
    return tuple(name for name in names if name in always or name in mesh.axis_names)


_pipeline_around: Any = jax.make_user_context(default_value=frozenset[str]())
"""The mesh axes of the pipeline that the code inside `per_device` belongs to."""


def _pipeline_axes() -> frozenset[str]:
    """The mesh axes over which the code being traced is one stage of a pipeline."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or len(mesh.manual_axes) == len(mesh.axis_names):
        return _pipeline_around.value
    return frozenset(mesh.manual_axes)


def is_in_pipeline() -> bool:
    """Whether the code being traced is a stage of a pipeline, with devices of its own."""
    return bool(_pipeline_axes())


def _names(axis: str | None, mesh: Mesh | AbstractMesh | None = None) -> tuple[str, ...]:
    """The names in `mesh` of all mesh axes that split a logical axis.

    None: the current mesh; then without those of a pipeline, whose stages each have arrays of
    their own.
    """
    others = _pipeline_axes() if mesh is None else ()
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    axes = () if axis is None else LOGICAL_TO_MESH[axis]
    return tuple(name for each in axes for name in _sub_axes(each, mesh) if name not in others)


def stepwise() -> frozenset[str]:
    """The axes of the current mesh that split stored weights, if there are several: collectives
    over them go from one to the next (see `SUB_AXES`)."""
    sizes = jax.sharding.get_abstract_mesh().shape
    names = [name for name in _names("embed") if sizes.get(name, 1) > 1]
    return frozenset(names if len(names) > 1 else ())


def logical_spec(*axes: str | None, mesh: Mesh | AbstractMesh | None = None) -> PartitionSpec:
    """Returns the partition of an array with these logical axes (None: not split).

    Args:
      *axes: a name for each dimension.
      mesh: names the mesh axes; None: the current one.

    Raises:
      UserError: two dimensions are split over the same mesh axis.
    """
    parts = [_names(axis, mesh) for axis in axes]
    used = [name for part in parts for name in part]
    if len(set(used)) != len(used):
        raise UserError(f"logical axes {axes}", f"split over the same mesh axis twice: {parts}")
    return PartitionSpec(*(part[0] if len(part) == 1 else (part or None) for part in parts))


def current_sharding(*axes: str | None) -> NamedSharding:
    """`logical_spec` with the sizes of the current mesh; in a pipeline, of one stage of it."""
    sizes, stages = jax.sharding.get_abstract_mesh().shape, _pipeline_axes()
    own = {name: size for name, size in sizes.items() if name not in stages}
    return NamedSharding(AbstractMesh(tuple(own.values()), tuple(own)), logical_spec(*axes))


def has_mesh() -> bool:
    """Whether a mesh is set (`jax.set_mesh`) for the code being traced."""
    return not jax.sharding.get_abstract_mesh().empty


def has_shardings() -> bool:
    """Whether arrays of the code being traced have shardings.

    True where a mesh is set, except inside `per_device`, whose arrays are one device's parts. A
    stage of a pipeline has arrays split over the other axes.
    """
    devices = jax.sharding.get_abstract_mesh()
    return not devices.empty and len(devices.manual_axes) < len(devices.axis_names)


def out_sharding(*axes: str | None) -> PartitionSpec | None:
    """The `out_sharding=` of an operation; None where arrays have no sharding."""
    return logical_spec(*axes) if has_shardings() else None


def reshard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Reshards `x` by its logical axes; a no-op where arrays have no sharding."""
    if not has_shardings():
        return x
    source = jax.typeof(x).sharding.spec
    for spec in gather_steps(source, logical_spec(*axes), stepwise()):
        x = jax.sharding.reshard(x, spec)
    return x


def whole_stack(x: jax.Array) -> jax.Array:
    """Gathers the layers that stages hold: [layers, ...], as split as before in the rest."""
    stages, spec = mesh_axes("layers"), spec_of(x)
    if not stages or spec is None or not spec or spec[0] is None:
        return x
    return jax.sharding.reshard(x, PartitionSpec(None, *spec[1:]))


def spec_of(x: jax.Array) -> PartitionSpec | None:
    """The partition of `x`; None where arrays have no sharding."""
    return jax.typeof(x).sharding.spec if has_shardings() else None


def mesh_axes(axis: str | None) -> tuple[str, ...]:
    """The mesh axes that split a logical axis, for collectives inside `per_device`."""
    return _names(axis) if has_mesh() else ()


def parts(axis: str | None) -> int:
    """The number of parts that a logical axis is split into."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[name] for name in mesh_axes(axis))


def is_split(*axes: str | None) -> bool:
    """Whether any of these logical axes is split into parts."""
    return any(parts(axis) > 1 for axis in axes)


def shards(axis: str | None) -> int:
    """The number of parts of an array as the code being traced sees it: 1 inside `per_device`."""
    return parts(axis) if has_shardings() else 1


def part_index(axis: str | None) -> jax.Array | int:
    """Inside `per_device`: the index of this device's part of a logical axis."""
    names = mesh_axes(axis)
    return jax.lax.axis_index(names) if names else 0


def platform() -> str:
    """The platform of the code being traced: "cpu", "gpu" or "tpu"."""
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    device = jax.sharding.get_abstract_mesh().abstract_device or default
    return _platform(jax.default_backend() if device is None else device)


def platform_of(mesh: Mesh) -> str:
    """The platform of a mesh's devices: "cpu", "gpu" or "tpu"."""
    return _platform(mesh.devices.flat[0])


def _platform(device: Any) -> str:
    name = getattr(device, "platform", device)
    return "gpu" if name in ("cuda", "rocm") else name


def per_device(f: Callable, in_axes: Sequence[Any], out_axes: Sequence[Axes]) -> Callable:
    """Wraps `f` in `shard_map`; returns `f` itself without a mesh or inside `per_device`.

    In a stage of a pipeline, over the devices of the stage.

    Args:
      f: a function of arrays (or Nones) to a tuple of arrays. It does its own collectives over
        `mesh_axes`, and needs its own derivative: replication is not checked.
      in_axes: logical axes of each argument, which is resharded to them; for a pytree, a tree of
        partitions.
      out_axes: logical axes of each result.
    """
    if not has_shardings():
        return f
    specs = tuple(logical_spec(*axes) if isinstance(axes, tuple) else axes for axes in in_axes)
    outs = tuple(logical_spec(*axes) for axes in out_axes)
    stages = _pipeline_axes()
    free = set(jax.sharding.get_abstract_mesh().axis_names) - stages

    def run(*args: Any) -> Any:
        with _pipeline_around(stages):
            return f(*args)

    inner = jax.shard_map(
        run if stages else f, in_specs=specs, out_specs=outs, axis_names=free, check_vma=False
    )
    return lambda *args: inner(
        *(a if a is None else jax.sharding.reshard(a, s) for a, s in zip(args, specs, strict=True))
    )


def named_sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Returns the sharding on `mesh` of an array with these logical axes."""
    return NamedSharding(mesh, logical_spec(*axes, mesh=mesh))


def use_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Sets the mesh for a `with` block; None: no change."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def place(array: np.ndarray, mesh: Mesh | None, *axes: str | None) -> jax.Array:
    """Makes a host array, equal in every process, a global array with these logical axes."""
    if mesh is None:
        return jnp.asarray(array)
    sharding = named_sharding(mesh, *axes)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def axis_size(mesh: Mesh | AbstractMesh, axis: str) -> int:
    """The number of devices that the logical `axis` is split over."""
    return math.prod(mesh.shape[name] for name in _names(axis, mesh))


def rounded_up(size: int, mesh: Mesh | None, axis: str) -> int:
    """Rounds a size up to a multiple of the devices of the logical `axis`; None: one device."""
    parts = 1 if mesh is None else axis_size(mesh, axis)
    return -(-size // parts) * parts


def check_divides(
    name: str,
    shape: Sequence[int],
    axes: Sequence[str | None],
    mesh: Mesh | AbstractMesh,
) -> None:
    """Checks that every dimension of the tensor `name` divides over its mesh axes.

    Raises:
      UserError: one does not; names the tensor, the dimension and the mesh axes.
    """
    for size, axis in zip(shape, axes, strict=True):
        if axis is None:
            continue
        parts = axis_size(mesh, axis)
        if size % parts:
            sizes = axis_sizes(mesh)
            along = present({name: sizes[name] for name in LOGICAL_TO_MESH[axis]})
            split = " x ".join(f"{name}={size}" for name, size in along.items())
            raise UserError(
                f"{name} {tuple(shape)}",
                f"its {axis} dimension of {size} does not divide over mesh {split}",
                "change the size or the mesh",
            )
