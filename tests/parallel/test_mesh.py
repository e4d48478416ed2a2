"""Sharding helpers without a mesh and inside `per_device`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pretend
from llmjax.errors import UserError
from llmjax.model import cache as caches
from llmjax.model.attention.mask import Mask
from llmjax.model.compute import Precision
from llmjax.model.layers import dropout
from llmjax.model.products import dense
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig
from pretend import DEVICES

FOUR = MeshConfig(fsdp=2, tensor=2)
SEGMENTS = np.repeat([[1, 1, 2, 0]], 4, axis=0).astype(np.int32)


def four():
    return jax.set_mesh(mesh.make_mesh(FOUR, jax.devices()[:4]))


def test_a_mesh_that_does_not_fit_is_shown_as_given():
    with pytest.raises(UserError, match="fsdp=-1,sequence=1,tensor=3: does not fit 8 "):
        mesh.make_mesh(MeshConfig(fsdp=-1, tensor=3), jax.devices()[:8])


def test_without_a_mesh_arrays_have_no_sharding():
    x = jnp.ones((4, 4))
    assert not mesh.has_shardings()
    assert mesh.reshard(x, "batch", "heads") is x
    assert mesh.out_sharding("batch") is None
    assert mesh.spec_of(x) is None


def test_inside_per_device_there_is_nothing_to_lay_out():
    """Code there sees one device's part, and may be the same as outside."""

    def local(x):
        assert mesh.has_mesh()
        assert not mesh.has_shardings()
        assert x.shape == (2, 2)
        assert mesh.reshard(x, "batch", "heads") is x
        assert mesh.out_sharding("batch", "heads") is None
        assert mesh.spec_of(x) is None
        assert mesh.parts("heads") == 2, "collectives know the mesh"
        inner = mesh.per_device(lambda x: (2 * x,), (("batch", None),), (("batch", None),))
        return (inner(x)[0] + mesh.part_index("heads"),)

    axes = ("batch", "heads")
    with four():
        assert mesh.has_shardings()
        out = jax.jit(mesh.per_device(local, (axes,), (axes,)))(jnp.ones((4, 4)))[0]
    np.testing.assert_array_equal(out, np.repeat([[2, 2, 3, 3]], 4, axis=0))


def test_a_mask_is_the_same_inside_per_device():
    def local(segments):
        return (Mask(segments, segments).dense(4, 4),)

    expected = np.asarray(Mask(SEGMENTS, SEGMENTS).dense(4, 4))
    run = partial(mesh.per_device, local, (("batch", None),))
    with four():
        out = jax.jit(run((("batch", None, None),)))(SEGMENTS)[0]
    np.testing.assert_array_equal(out, expected)


def test_layers_run_inside_per_device():
    """Products, dropout and selecting rows of a cache, on one device's part."""

    def local(x, kernel, key):
        y = dense(x, kernel, None, axes=("embed", None), out=rows, precision=Precision("float32"))
        kept = dropout(y, 0.5, jax.random.wrap_key_data(key))[..., None]
        cache = caches.Cache((kept,), (kept,)).take(jnp.arange(len(x))[::-1])
        return (cache.keys[0][..., 0],)

    rows = ("batch", None, None)
    run = mesh.per_device(local, (rows, (None, None), (None,)), (rows,))
    with four():
        key = jax.random.key_data(jax.random.key(0))
        out = jax.jit(run)(jnp.ones((4, 2, 3)), jnp.ones((3, 5)), key)[0]
    assert out.shape == (4, 2, 5)
    assert set(np.unique(out)) == {0.0, 6.0}


@pytest.mark.parametrize("name", ["gpu", "cuda", "rocm"])
def test_gpus_have_one_name(name, monkeypatch):
    """Vendor names too, of a mesh or of the default backend."""
    device = jax.sharding.AbstractDevice("some GPU", None, name)
    abstract = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(abstract):
        assert mesh.platform() == "gpu"
    monkeypatch.setattr(jax, "default_backend", lambda: name)
    assert mesh.platform() == "gpu"


@pytest.mark.parametrize("platform", DEVICES)
def test_a_mesh_says_what_its_devices_are(platform):
    assert mesh.platform() == "cpu"
    with pretend.devices(platform, fsdp=4):
        assert mesh.platform() == platform

        def local(x):
            assert mesh.platform() == platform
            return (x,)

        x = pretend.array((4,), jnp.float32, "batch")
        jax.eval_shape(mesh.per_device(local, (("batch",),), (("batch",),)), x)
    assert mesh.platform() == "cpu"
