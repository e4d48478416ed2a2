"""Traces and lowers programs for GPUs and TPUs that are not present."""

import contextlib
from collections import Counter

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding

from llmjax.parallel import mesh
from llmjax.parallel.mesh import MESH_AXES

DEVICES = {
    "gpu": AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu"),
    "tpu": AbstractDevice("TPU v5 lite", None, "tpu"),
}
COMPILERS = {"gpu": "cuda", "tpu": "tpu"}
CUDNN = "dot_product_attention_fwd_wrapper"
CUDNN_BACKWARD = "dot_product_attention_bwd_wrapper"
PALLAS = "pallas_call"
KERNELS = (CUDNN, CUDNN_BACKWARD, PALLAS)
TRITON = "__gpu$xla.gpu.triton"
EIGHT = {"fsdp": 4, "tensor": 2}


@contextlib.contextmanager
def devices(platform, **sizes):
    """Code inside is traced for these devices; without sizes, for one device and no mesh."""
    sizes = mesh.present({axis: sizes.get(axis, 1) for axis in MESH_AXES}) if sizes else {}
    axes, shape = tuple(sizes), tuple(sizes.values())
    types = (AxisType.Explicit,) * len(axes)
    abstract_mesh = AbstractMesh(shape, axes, axis_types=types, abstract_device=DEVICES[platform])
    with jax.sharding.use_abstract_mesh(abstract_mesh):
        assert mesh.platform() == platform
        yield abstract_mesh


def array(shape, dtype, *axes):
    """An abstract argument, sharded by its logical axes."""
    if not mesh.has_mesh():
        return jax.ShapeDtypeStruct(shape, dtype)
    sharding = NamedSharding(jax.sharding.get_abstract_mesh(), mesh.logical_spec(*axes))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def params_of(network, dtype=None):
    """A network's parameters as abstract arguments."""
    params = jax.eval_shape(lambda: network.init(jax.random.key(0)))
    return params if dtype is None else jax.tree.map(lambda p: p.update(dtype=dtype), params)


def packed(rows, length, *, segments=True, encoder=0):
    """A training batch as abstract arguments; `encoder`: length of the encoder's rows."""
    names = ["inputs", "targets", "positions", "weights"] + ["segments"] * segments
    lengths = dict.fromkeys(names, length)
    if encoder:
        encoder_names = ["encoder_tokens", "encoder_positions"] + ["encoder_segments"] * segments
        lengths |= dict.fromkeys(encoder_names, encoder)
    dtypes = {"weights": jnp.float32}
    return {
        name: array((rows, size), dtypes.get(name, jnp.int32), "batch", "length")
        for name, size in lengths.items()
    }


def equations(jaxpr):
    """The equations of a jaxpr, including those of inner ones."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        inner = jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
        )
        for value in inner:
            if hasattr(getattr(value, "jaxpr", value), "eqns"):
                yield from equations(value)


def primitives(jaxpr) -> Counter:
    """Counts each primitive in a jaxpr, including inner ones."""
    return Counter(equation.primitive.name for equation in equations(jaxpr))


def shapes(jaxpr) -> set[tuple]:
    """The shapes of all results in a jaxpr, including inner ones."""
    results = (variable.aval for each in equations(jaxpr) for variable in each.outvars)
    return {aval.shape for aval in results if hasattr(aval, "shape")}


def kernels(traced) -> dict[str, int]:
    """How often each attention kernel stands in a traced program."""
    counts = primitives(traced.jaxpr)
    return {name: counts[name] for name in KERNELS if counts[name]}


def lowered(traced, platform) -> str:
    """StableHLO of a traced program, for these devices' compiler."""
    return traced.lower(lowering_platforms=(COMPILERS[platform],)).as_text()
