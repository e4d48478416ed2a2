"""The programs of benchmarks/gpu.sh in full size, traced for a GPU."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pretend
from benchmarks.gpu.decoding import BATCHES, lengths
from benchmarks.gpu.shapes import FULL, LLAMA_1B, Shape, fitted
from benchmarks.gpu.train_jax import model_of
from benchmarks.jax_training import adamw_step
from llmjax.decoding import rows, steps
from llmjax.decoding.config import DecodingConfig
from llmjax.model.checks import resolve
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.config.files import load_config_file
from llmjax.state import init_state

SHAPES = {
    "1B": LLAMA_1B,
    "8B in 140 GB": fitted(FULL["8b"], 140e9),
    "1B in 24 GB": fitted(LLAMA_1B, 24e9),
}
KERNELS = {
    True: {pretend.PALLAS: 3},
    False: {pretend.CUDNN: 1, pretend.CUDNN_BACKWARD: 1},
}
"""Packed or not: ours forward, and backward in two; cuDNN's."""


def traced_step(shape: Shape, packed: bool):
    """Inside a mesh."""
    model = model_of(shape)
    step, optimizer = adamw_step(model)
    state = jax.eval_shape(lambda: init_state(model, optimizer, jax.random.key(0)))
    batch = pretend.packed(shape.rows, shape.length, segments=packed)
    return step.trace(state, batch)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "not packed"])
@pytest.mark.parametrize("name", SHAPES)
def test_training(name, packed):
    shape = SHAPES[name]
    with pretend.devices("gpu", fsdp=1):
        traced = traced_step(shape, packed)
    assert pretend.kernels(traced) == KERNELS[packed]
    shapes = pretend.shapes(traced.jaxpr)
    assert any(shape.length in each for each in shapes)
    if shape.width != shape.length:
        assert not [each for each in shapes if each.count(shape.length) > 1], "a mask of [T, S]"


@pytest.mark.once  # JAX 0.12 lowers Pallas for a GPU only where there is one
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "not packed"])
def test_lowered_training(packed, monkeypatch):
    monkeypatch.setattr(mesh, "platform", lambda: "gpu")
    with jax.set_mesh(mesh.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])):
        text = pretend.lowered(traced_step(LLAMA_1B, packed), "gpu")
    assert text.count(pretend.TRITON) == (3 if packed else 0)
    assert text.count("__cudnn$fmhaSoftmaxBackward") == (0 if packed else 1)


@pytest.mark.parametrize("batch", BATCHES)
def test_decoding(batch):
    model, (prompt, tokens) = model_of(LLAMA_1B), lengths(toy=False)
    slots = prompt + tokens
    with pretend.devices("gpu"):
        params = unstacked(pretend.params_of(model, jnp.bfloat16), LLAMA_1B.layers)
        text = jax.ShapeDtypeStruct((batch, prompt), jnp.int32)
        prefill = rows.fill_cache.trace(model, params, text, slots=slots)
        assert pretend.kernels(prefill) == {pretend.CUDNN: LLAMA_1B.layers}
        row = jax.ShapeDtypeStruct((batch,), jnp.int32)
        keys = jax.ShapeDtypeStruct((batch, 2), jnp.uint32)
        cache = jax.eval_shape(partial(model.init_cache, batch, slots))
        state = rows.DecodeState(cache, row, row, row, keys, None)
        greedy = steps.sampling_of(DecodingConfig(temperature=0.0))
        stops, vocabulary = np.zeros(0, np.int32), np.int32(LLAMA_1B.vocab)
        inputs = steps.SamplingInputs(greedy, np.uint32(0), stops, vocabulary)
        step = steps.decode_program("gpu").trace(model, params, state, inputs)
        assert not pretend.kernels(step)
        pretend.lowered(step, "gpu")


def unstacked(params, layers):
    """As `unstack_layers`, of shapes."""
    decoder = dict(params["decoder"])
    (group,) = (name for name, part in decoder.items() if "attention" in part)
    one = jax.tree.map(lambda leaf: leaf.update(shape=leaf.shape[1:]), decoder[group])
    return params | {"decoder": decoder | {group: (one,) * layers}}


@pytest.mark.parametrize("name", ["1b", "8b"])
def test_the_models_are_those_of_the_presets(name):
    preset, shape = load_config_file(f"llama_{name}"), FULL[name]
    model = model_of(shape)
    assert model.config == resolve(preset.model, preset.tokenizer.vocab_size)
    assert model.compute == preset.compute
    assert shape.length == preset.data.length
    norms = shape.width * (2 * shape.layers + 1)
    assert shape.parameters == model.num_params() - norms


def test_what_fits_is_the_largest():
    assert fitted(LLAMA_1B, 200e9) == LLAMA_1B
    shape = fitted(FULL["8b"], 100e9)
    assert 2 <= shape.layers < 32
    assert shape.training_bytes < 100e9 < replace(shape, layers=shape.layers + 6).training_bytes
    assert fitted(FULL["8b"], 8e9) is None
