"""Generation, preference and similarity on a mesh that splits everything: loss, gradient and
outputs equal those of one device."""

import jax
import numpy as np
import pytest
from test_generation_runs import ROWS, TASKS

from llmjax.model.config import ModelConfig
from llmjax.parallel.mesh import MeshConfig, make_mesh, place, use_mesh
from llmjax.tasks.packing import shape_of
from llmjax.tasks.predict import compute_outputs, total_loss
from task_models import arrays_of, opened, rows_of

SIZES = {"d_model": 32, "num_heads": 2, "d_ff": 64}
DECODER = ModelConfig(num_decoder_layers=1, **SIZES)
BOTH = ModelConfig(num_encoder_layers=1, num_decoder_layers=1, **SIZES)


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("sequence", BOTH),
        ("chat", DECODER),
        ("preference", DECODER),
        ("similarity", DECODER),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_as_on_one_device(kind, model):
    rows = rows_of(*ROWS[kind])
    task, network = opened(TASKS[kind], rows, model=model, length=64)
    examples = task.examples(rows)
    shape = shape_of(examples, 64, encodes=model is BOTH)
    mesh = make_mesh(MeshConfig(fsdp=2, sequence=2, tensor=2))
    init = jax.jit(network.init)
    params = init(jax.random.key(1))
    with use_mesh(mesh):
        shared = init(jax.random.key(1))

    alone = total_loss(task, network.model, params, examples, 4, None)
    many = total_loss(task, network.model, shared, examples, 4, mesh)
    assert many.nll == pytest.approx(alone.nll, rel=1e-5)
    assert (many.weight, many.correct) == (alone.weight, alone.correct)

    result, reference = (
        compute_outputs(task, network.model, p, examples, 4, m)
        for p, m in ((shared, mesh), (params, None))
    )
    for actual, expected in zip(result, reference, strict=True):
        for name, value in actual.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)

    arrays = arrays_of(examples, shape)
    arrays = {
        name: np.pad(x, [(0, -len(x) % 4)] + [(0, 0)] * (x.ndim - 1)) for name, x in arrays.items()
    }

    def gradient(params, arrays):
        return jax.grad(lambda p: task.loss(network.model, p, arrays, None).objective)(params)

    full = jax.jit(gradient)(params, arrays)
    with use_mesh(mesh):
        split = {
            name: place(x, mesh, "batch", *[None] * (x.ndim - 1)) for name, x in arrays.items()
        }
        parts = jax.jit(gradient)(shared, split)
    for actual, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(full), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-5)
