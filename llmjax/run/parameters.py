"""The parameters of a run: its model and the heads of its tasks.

Checkpoints hold the trained ones; frozen ones are written once, to RUN/frozen/0.
"""

from typing import Any

import jax

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.run.checkpoint.files import steps
from llmjax.run.checkpoint.progress import read_progress
from llmjax.run.checkpoint.reading import complete_step, read_params, stored_leaves
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.state import Tree, join, split
from llmjax.tasks.config import name_of
from llmjax.tasks.heads import Network
from llmjax.tasks.metadata import read_metadata
from llmjax.tasks.task import Task, TaskContext, network_of


def run_tasks(
    run: Run, config: Config, tokenizer: Tokenizer, shape: ModelConfig
) -> tuple[Task, ...]:
    """The tasks of a run, with their stored metadata.

    Raises:
      UserError: its tasks.json is missing or damaged.
    """
    if not config.tasks:
        return ()
    context = TaskContext(tokenizer, shape, config.data.length)
    metadata = read_metadata(run.tasks, [name_of(task) for task in config.tasks])
    return tuple(
        task.open(context, stored) for task, stored in zip(config.tasks, metadata, strict=True)
    )


def run_network(run: Run, config: Config, tokenizer: Tokenizer, shape: ModelConfig) -> Network:
    """The model of a run, with its tasks' heads.

    Raises:
      UserError: as `run_tasks`.
    """
    return network_of(Model(shape, config.compute), run_tasks(run, config, tokenizer, shape))


def resolve_step(run: Run, config: Config, step: int | None) -> int:
    """The step of the checkpoint to read.

    Args:
      run: the run.
      config: its config.
      step: None for the best one by evaluation.metric, if the config names a metric; else the
        newest complete one.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    if step is None and config.evaluation.metric is not None:
        folder = run.checkpoints
        costs = {number: read_progress(folder, number).heldout_loss for number in steps(folder)}
        scored = [(cost, -number) for number, cost in costs.items() if cost is not None]
        if scored:
            step = -min(scored)[1]
    return complete_step(run.checkpoints, step)


def read_parameters(run: Run, step: int, abstract: Tree) -> Tree:
    """Reads all parameters of a verified checkpoint, including the frozen ones.

    Args:
      run: the run.
      step: of `resolve_step`.
      abstract: shapes, and the dtypes and shardings to read into, of the complete network.

    Raises:
      UserError: the run holds other parameters, or frozen ones are missing or damaged.
    """
    # The first checkpoint of an import holds everything.
    names = frozen_names(run) - stored_leaves(run.checkpoints, step).keys()
    if not names:
        params: Tree = read_params(run.checkpoints, step, abstract)
        return params
    abstract_frozen, abstract_trained = split(abstract, mask_of(abstract, names))
    frozen = read_params(run.frozen, complete_step(run.frozen, 0), abstract_frozen)
    return join(read_params(run.checkpoints, step, abstract_trained), frozen)


def stored_parameters(run: Run, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of all stored parameters, by dotted path; reads no values."""
    frozen = stored_leaves(run.frozen, 0) if run.frozen.is_dir() else {}
    return frozen | stored_leaves(run.checkpoints, step)


def frozen_names(run: Run) -> frozenset[str]:
    """Dotted paths of the frozen parameters."""
    return frozenset(stored_leaves(run.frozen, 0)) if run.frozen.is_dir() else frozenset()


def mask_of(tree: Tree, names: frozenset[str]) -> Tree:
    """A mask of the leaves with these dotted paths."""

    def is_named(path: Any, leaf: Any) -> bool:
        return jax.tree_util.keystr(path, simple=True, separator=".") in names

    return jax.tree_util.tree_map_with_path(is_named, tree)
