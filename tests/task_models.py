"""Models small enough to be trained within a test, for tasks of tokens."""

from functools import partial

import jax
import optax

from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.tasks.packing import lay_out, pack, shape_of
from llmjax.tasks.predict import compute_outputs
from llmjax.tasks.task import PredictionData, TaskContext, network_of

ENCODER = ModelConfig(
    d_model=32, num_encoder_layers=2, num_decoder_layers=0, num_heads=2, d_ff=64, gated=False
)
LENGTH = 48


def rows_of(*values):
    return [Row(f"table line {number}", one) for number, one in enumerate(values, 1)]


def opened(config, rows, tokenizer=None, model=ENCODER, length=LENGTH):
    """(task, network) with the facts of these rows."""
    tokenizer = tokenizer or BytesTokenizer()
    resolved = resolve(model, tokenizer.vocab_size)
    task = config.open(TaskContext(tokenizer, resolved, length), config.find_metadata(rows))
    return task, network_of(Model(resolved), [task])


def arrays_of(examples, shape):
    """The arrays of examples in as few rows as they take, in order."""
    return lay_out(examples, pack(examples, range(len(examples)), shape), shape)


def trained(task, network, examples, steps, rate=3e-3):
    """Parameters after so many steps on all examples at once."""
    encodes = task.context.model.is_encoder_decoder
    shape = shape_of(examples, task.context.length, encodes=encodes)
    arrays = arrays_of(examples, shape)
    optimizer = optax.adam(rate)
    params = jax.jit(network.init)(jax.random.key(0))

    def mean(params):
        loss = task.loss(network.model, params, arrays, None)
        return loss.objective / loss.weight

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = optimizer.update(jax.grad(mean)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def predicted(task, network, params, rows, examples=None):
    """The task's predictions for rows."""
    examples = examples or task.examples(rows)
    found = compute_outputs(task, network.model, params, examples, 4, None)
    return task.predictions(PredictionData(rows, examples, found, None))


def eight_devices():
    return make_mesh(MeshConfig(), jax.devices()[:8])
