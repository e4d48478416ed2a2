"""Models, and run folders with checkpoints, that nobody trained: for tests of what uses them."""

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.config import DataConfig
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.inference.language_model import LanguageModel
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import SgdConfig
from llmjax.parallel.mesh import make_mesh, use_mesh
from llmjax.run.checkpoint.checkpoints import Checkpoints, TrainProgress
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.scoring.config import EvaluationConfig
from llmjax.state import TrainState

TEXTS = tuple(f"Document {n} says {'🙂 né ' * (n % 5)}and so on.\n" for n in range(40))


def drawn(model, seed=0, mesh=None, spread=0.4):
    """Parameters of large deviation, norms around 1; drawn by NumPy, which compiles nothing."""
    generator = np.random.default_rng(seed)

    def leaf(path, shape):
        middle = float(path[-1].key == "scale")
        values = generator.normal(middle, spread, shape.shape).astype(np.float32)
        return jnp.asarray(values) if mesh is None else jax.device_put(values, shape.sharding)

    with use_mesh(mesh):
        return jax.tree.map_with_path(leaf, model.abstract_params())


def in_hand(tokenizer=None, run_dir="runs/none", **fields):
    """A model that was never trained nor saved, of two decoder layers unless `fields` differ."""
    tokenizer = tokenizer or BytesTokenizer()
    shape = {"vocab_size": tokenizer.vocab_size, "max_length": 128, "d_model": 16, "num_heads": 4}
    model = Model(resolve(ModelConfig(**shape | {"num_decoder_layers": 2} | fields), 0))
    config = Config(run_dir=str(run_dir), data=DataConfig(length=shape["max_length"]))
    return LanguageModel(model, drawn(model), tokenizer, config)


def make_run(folder, steps=(3, 7), mesh=None):
    """A run of a tiny model of bytes; each checkpoint was drawn with its step as seed.

    Args:
      folder: holds the run, its text and its cache.
      steps: of the checkpoints.
      mesh: a MeshConfig to save them from; None for one device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_text("".join(TEXTS), encoding="utf-8")
    config = Config(
        run_dir=str(folder / "run"),
        model=ModelConfig(max_length=64, d_model=16, num_decoder_layers=1, num_heads=2),
        tokenizer=BytesConfig(),
        data=DataConfig(
            sources=(TextSource(paths=(str(text),), split="line"),),
            batch_size=2,
            length=32,
            validation_fraction=0.4,
            cache_dir=str(folder / "cache"),
            workers=1,
        ),
        optimizer=SgdConfig(momentum=0.0),
        evaluation=EvaluationConfig(batch_size=4),
    )
    run = Run.create(config)
    tokenizer = BytesTokenizer()
    tokenizer.save(run.tokenizer)
    save(run, config, steps, mesh)
    return run


def save(run, config, steps, mesh=None):
    """Writes the checkpoints, from all devices of a mesh or from one."""
    model = Model(resolve(config.model, BytesTokenizer().vocab_size))
    devices = None if mesh is None else make_mesh(mesh)
    optimizer = make_optimizer(config.optimizer, 10, model.logical_axes())
    with Checkpoints(run.checkpoints, config.checkpoint) as checkpoints:
        for step in steps:
            params = drawn(model, step, devices)
            state = TrainState(jnp.int32(step), params, optimizer.init(params))
            checkpoints.save(state, TrainProgress(step, 0, 2, 32, "none"))
