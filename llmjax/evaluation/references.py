"""What the initial model of a run says of examples that it was not trained on, for tasks whose
loss compares the two: without that, a margin means nothing (see `tasks.preference`)."""

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
"""Examples by which a changed initial run is detected."""
TOLERANCE = 0.05
"""Share of their log-likelihoods that rounding may account for."""


@dataclass(frozen=True, eq=False)
class References:
    """The references of a task's examples; the initial model is read when it is needed.

    Attributes:
      lm: the run's model.
      task: one of the run's; most need no references.
      batch_size: rows of tokens at once.
    """

    lm: LanguageModel
    task: Task
    batch_size: int

    def of(self, examples: Sequence[Example]) -> list[Example]:
        """The examples, with what the initial model says of them where the task needs it.

        Raises:
          UserError: there are new examples, and the initial model is gone.
        """
        task = self.task
        if not any(map(task.lacks_reference, examples)):
            return list(examples)
        try:
            model, params = self._initial
            self._check_same(model, params)
        except UserError as error:
            reason = f"has no references for pairs that it was not trained on: {error}"
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
        """The model with the parameters of step 0."""
        lm, config = self.lm, self.lm.config
        if config.init_from is None:
            if 0 not in Run.open(config.run_dir).steps():
                raise UserError(config.run_dir, "no longer holds the parameters of step 0")
            return lm.model, load(config.run_dir, step=0, mesh=lm.mesh).params
        if lm.model.config.lora is not None:  # nothing else learns, and they begin as nothing
            return lm.model, _without_adapters(lm.params)
        first = load(config.init_from, mesh=lm.mesh)
        return Model(first.model.config, lm.model.compute), first.params

    def _check_same(self, model: Model, params: Params) -> None:
        """Raises UserError where the initial run has changed since, as some of the examples that
        this run was trained on show."""
        base, stored, task = self.lm.config.init_from, self._trained_on, self.task
        if base is None or self.lm.model.config.lora is not None or not stored:
            return
        blank = replace(task, metadata=replace(task.metadata, references=()))
        again = self._with_references(blank, model, params, blank.with_references(stored))
        then, now = (np.array([example.target for example in group]) for group in (stored, again))
        if np.abs(then - now).sum() > TOLERANCE * np.abs(then).sum():
            raise UserError(base, "has changed since this run began with it", "restore it")

    @cached_property
    def _trained_on(self) -> list[Example]:
        """A few of the examples that the run was trained on, where their tables still exist."""
        rows = itertools.chain.from_iterable(map(read_table, self.task.config.train))
        try:
            examples = self.task.examples(list(itertools.islice(rows, COMPARED)))
        except UserError as error:
            log.warning("cannot tell whether %s has changed: %s", self.lm.config.init_from, error)
            return []
        return [example for example in examples if not self.task.lacks_reference(example)]


def _without_adapters(params: Params) -> Params:
    """The parameters with adapters that add nothing."""

    def still(path: tuple, leaf: jax.Array) -> jax.Array:
        return jnp.zeros_like(leaf) if getattr(path[-1], "key", None) == "lora_b" else leaf

    return jax.tree_util.tree_map_with_path(still, params)
