"""A run's model as it was trained: with the heads of its tasks, its frozen parts beside the rest.

Parameters that do not learn are written once, to RUN/frozen/0; checkpoints hold those that do.
"""

from typing import Any

import jax

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.run.checkpoint.files import steps as finished
from llmjax.run.checkpoint.progress import read_progress
from llmjax.run.checkpoint.reading import complete_step, read_params, stored_leaves
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.state import Tree, join, split
from llmjax.tasks.heads import Network
from llmjax.tasks.opening import network_of, open_task, read_facts
from llmjax.tasks.task import Setting, Task


def run_tasks(
    run: Run, config: Config, tokenizer: Tokenizer, shape: ModelConfig
) -> tuple[Task, ...]:
    """The tasks of a run, with what they found in its examples.

    Raises:
      UserError: its tasks.json is missing or damaged.
    """
    if not config.tasks:
        return ()
    setting = Setting(tokenizer, shape, config.data.length)
    facts = read_facts(run.tasks, config.tasks)
    return tuple(map(open_task, config.tasks, [setting] * len(facts), facts))


def run_network(run: Run, config: Config, tokenizer: Tokenizer, shape: ModelConfig) -> Network:
    """The model of a run, with its tasks' heads.

    Raises:
      UserError: as `run_tasks`.
    """
    return network_of(Model(shape, config.compute), run_tasks(run, config, tokenizer, shape))


def chosen_step(run: Run, config: Config, step: int | None) -> int:
    """The step of a complete checkpoint.

    Args:
      run: the run.
      config: its config.
      step: which; None for the best by evaluation.metric, where the run goes by one, else the
        newest complete one.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    if step is None and config.evaluation.metric is not None:
        folder = run.checkpoints
        costs = {one: read_progress(folder, one).heldout_loss for one in finished(folder)}
        scored = [(cost, -one) for one, cost in costs.items() if cost is not None]
        if scored:
            step = -min(scored)[1]
    return complete_step(run.checkpoints, step)


def read_network(run: Run, step: int, abstract: Tree) -> Tree:
    """All parameters of a verified checkpoint, those that never learnt included.

    Args:
      run: the run.
      step: see `chosen_step`.
      abstract: shapes, dtypes and shardings wanted, of the whole network.

    Raises:
      UserError: the run holds other parameters, or what is frozen is missing or damaged.
    """
    # The first checkpoint of an import holds everything.
    names = frozen_names(run) - stored_leaves(run.checkpoints, step).keys()
    if not names:
        found: Tree = read_params(run.checkpoints, step, abstract)
        return found
    rest, learning = split(abstract, named(abstract, names))
    frozen = read_params(run.frozen, complete_step(run.frozen, 0), rest)
    return join(read_params(run.checkpoints, step, learning), frozen)


def stored_network(run: Run, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    """All parameters as they are stored, by their dotted paths; none is read."""
    frozen = stored_leaves(run.frozen, 0) if run.frozen.is_dir() else {}
    return frozen | stored_leaves(run.checkpoints, step)


def frozen_names(run: Run) -> frozenset[str]:
    """Dotted paths of the parameters that a run leaves as they are."""
    return frozenset(stored_leaves(run.frozen, 0)) if run.frozen.is_dir() else frozenset()


def named(tree: Tree, names: frozenset[str]) -> Tree:
    """The tree of bools that says which leaves are among those named by dotted path."""

    def is_named(path: Any, leaf: Any) -> bool:
        return jax.tree_util.keystr(path, simple=True, separator=".") in names

    return jax.tree_util.tree_map_with_path(is_named, tree)
