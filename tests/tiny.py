"""A tiny model, its optimizer and its batches, for tests of training."""

from pathlib import Path

import jax
import numpy as np

from llmjax.losses.loss import Loss
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import AdamWConfig
from llmjax.parallel.mesh import MeshConfig, make_mesh, named_sharding
from llmjax.state import make_state
from llmjax.step import make_train_step

HERE = Path(__file__).parent
CONFIG = ModelConfig(
    d_model=16, num_decoder_layers=2, num_heads=2, d_ff=32, max_length=16, gated=False
)
MODEL = Model(resolve(CONFIG, 128))
OPTIMIZER = AdamWConfig(learning_rate=0.01, schedule=ScheduleConfig("cosine", warmup_steps=2))
BATCH, LENGTH = 16, 16


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def loss(params, batch, key) -> Loss:
    return token_loss(MODEL, params, batch, dropout_key=key)


def batch(step: int, mesh, rows: int = BATCH) -> dict[str, jax.Array]:
    """Random tokens in documents of random length; the last row ends in padding."""
    generator = np.random.default_rng(step)
    tokens = generator.integers(4, 128, (rows, LENGTH + 1), np.int32)
    starts = generator.random((rows, LENGTH)) < 0.15
    starts[:, 0] = True
    segments = np.cumsum(starts, axis=1, dtype=np.int32)
    segments[-1, LENGTH // 2 :] = 0
    first = np.maximum.accumulate(np.where(starts, np.arange(LENGTH), 0), axis=1)
    arrays = {
        "inputs": np.where(starts, 1, tokens[:, :-1]).astype(np.int32),
        "targets": tokens[:, 1:],
        "weights": (segments > 0).astype(np.float32),
        "segments": segments,
        "positions": (np.arange(LENGTH) - first).astype(np.int32),
    }
    return jax.device_put(arrays, named_sharding(mesh, "batch", "length"))


def optimizer(config=OPTIMIZER, steps: int = 20):
    return make_optimizer(config, steps, MODEL.logical_axes())


def start(mesh, seed: int = 0, config=OPTIMIZER, loss_function=loss, **options):
    """(state, step function) of the tiny model on a mesh; run it under `jax.set_mesh(mesh)`."""
    updates = optimizer(config)
    step = make_train_step(loss_function, updates, seed=seed, clip_norm=1.0, **options)
    return make_state(MODEL, updates, seed, mesh), step


def numbers(tree) -> list[np.ndarray]:
    """A pytree's leaves on the host, in order."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def equal(a, b) -> bool:
    """Whether two pytrees of arrays are bitwise equal."""
    pairs = zip(numbers(a), numbers(b), strict=True)
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)
