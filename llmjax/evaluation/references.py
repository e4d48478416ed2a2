"""The initial model's outputs for new examples, for tasks that compare a model with its initial
state (see `tasks.preference`)."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import read_table
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, load
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.run.folder import Run
from llmjax.tasks.examples import Example
from llmjax.tasks.task import Task

log = logging.getLogger(__name__)
COMPARED = 8
"""Number of examples that detect a changed initial run."""
TOLERANCE = 0.05
"""Relative difference of their log-likelihoods that rounding may cause."""


@dataclass(frozen=True, eq=False)
class References:
    """Adds references to a task's examples; loads the initial model on demand.

    Attributes:
      lm: the run's model.
      task: one of the run's tasks; most need no references.
      batch_size: packed rows per batch.
    """

    lm: LanguageModel
    task: Task
    batch_size: int

    def of(self, examples: Sequence[Example]) -> list[Example]:
        """Add the initial model's outputs to the examples, if the task needs them.

        Raises:
          UserError: there are new examples, and the initial model is missing.
        """
        task = self.task
        if not any(map(task.lacks_reference, examples)):
            return list(examples)
        try:
            model, params = self._initial
            self._check_same(model, params)
        except UserError as error:
            reason = f"has no references for new pairs: {error}"
            raise UserError(f"task {task.name}", reason) from error
        return self._with_references(task, model, params, examples)

    def _with_references(
        self, task: Task, model: Model, params: Params, examples: Sequence[Example]
    ) -> list[Example]:
        new = [example for example in examples if task.lacks_reference(example)]
        metadata = task.reference(model, params, new, batch_size=self.batch_size, mesh=self.lm.mesh)
        return replace(task, metadata=metadata).with_references(examples)

    @cached_property
    def _initial(self) -> tuple[Model, Params]:
        """The initial model and its parameters."""
        lm, config = self.lm, self.lm.config
        if config.init_from is None:
            if 0 not in Run.open(config.run_dir).steps():
                raise UserError(config.run_dir, "no longer has the checkpoint of step 0")
            return lm.model, load(config.run_dir, step=0, mesh=lm.mesh).params
        if lm.model.config.lora is not None:  # only adapters are trained, from zero
            return lm.model, _without_adapters(lm.params)
        initial = load(config.init_from, mesh=lm.mesh)
        return Model(initial.model.config, lm.model.compute), initial.params

    def _check_same(self, model: Model, params: Params) -> None:
        """Raise UserError if the initial run has changed since training, by recomputing the
        references of some training examples."""
        base, stored, task = self.lm.config.init_from, self._training_examples, self.task
        if base is None or self.lm.model.config.lora is not None or not stored:
            return
        blank = replace(task, metadata=replace(task.metadata, references=()))
        recomputed = self._with_references(blank, model, params, blank.with_references(stored))
        expected, actual = (
            np.array([example.target for example in group]) for group in (stored, recomputed)
        )
        if np.abs(expected - actual).sum() > TOLERANCE * np.abs(expected).sum():
            raise UserError(base, "has changed since this run started from it", "restore it")

    @cached_property
    def _training_examples(self) -> list[Example]:
        """A few of the run's training examples, if the tables still exist."""
        rows = itertools.chain.from_iterable(map(read_table, self.task.config.train))
        try:
            examples = self.task.examples(list(itertools.islice(rows, COMPARED)))
        except UserError as error:
            log.warning("cannot check whether %s has changed: %s", self.lm.config.init_from, error)
            return []
        return [example for example in examples if not self.task.lacks_reference(example)]


def _without_adapters(params: Params) -> Params:
    """Return the parameters with adapters set to zero."""

    def without(path: tuple, leaf: jax.Array) -> jax.Array:
        return jnp.zeros_like(leaf) if getattr(path[-1], "key", None) == "lora_b" else leaf

    return jax.tree_util.tree_map_with_path(without, params)
