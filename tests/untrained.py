"""Run folders with checkpoints that nobody trained, for tests of what uses a run."""

from dataclasses import replace

import jax

from llmjax.checkpoint.checkpoints import Checkpoints, Position
from llmjax.config import Config
from llmjax.data import BytesConfig, DataConfig, TextSource
from llmjax.data.tokenizer import BytesTokenizer
from llmjax.mesh import MeshConfig, make_mesh
from llmjax.model import Model, ModelConfig, resolve
from llmjax.optimizers import SgdConfig, make_optimizer
from llmjax.run import Run
from llmjax.scoring import EvaluationConfig
from llmjax.state import make_state

TEXTS = tuple(f"Document {n} says {'🙂 né ' * (n % 5)}and so on.\n" for n in range(40))


def make_run(folder, steps=(3, 7), mesh=None, **model):
    """A run of a tiny model of bytes; each checkpoint was drawn with its step as seed.

    Args:
      folder: holds the run, its text and its cache.
      steps: of the checkpoints.
      mesh: a MeshConfig to save them from; None for one device.
      **model: fields of ModelConfig.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_text("".join(TEXTS), encoding="utf-8")
    shape = ModelConfig(max_length=64, d_model=16, num_decoder_layers=1, num_heads=2, init_std=0.4)
    config = Config(
        run_dir=str(folder / "run"),
        model=replace(shape, **model),
        tokenizer=BytesConfig(),
        data=DataConfig(
            sources=(TextSource(paths=(str(text),), split="line"),),
            batch_size=2,
            length=32,
            heldout_fraction=0.4,
            cache_dir=str(folder / "cache"),
            workers=1,
        ),
        optimizer=SgdConfig(momentum=0.0),
        evaluation=EvaluationConfig(batch_size=4),
    )
    run = Run.create(config)
    tokenizer = BytesTokenizer()
    tokenizer.save(run.tokenizer)
    network = Model(resolve(config.model, tokenizer.vocab_size))
    devices = make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else make_mesh(mesh)
    optimizer = make_optimizer(config.optimizer, 10, network.logical_axes())
    with Checkpoints(run.checkpoints, config.checkpoint) as checkpoints:
        for step in steps:
            state = make_state(network, optimizer, step, devices)
            checkpoints.save(state, Position(step, 0, 2, 32, "none"))
    return run
