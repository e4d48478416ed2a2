"""What a run's model said of pairs of answers as its training began, for pairs that it was not
trained on: without that, a margin says nothing (see `tasks.preference`)."""

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
from llmjax.tasks.config import name_of
from llmjax.tasks.example import Example
from llmjax.tasks.preference import Preference
from llmjax.tasks.task import Task

log = logging.getLogger(__name__)
COMPARED = 8
"""Rows by which a run that may have changed since is known."""
APART = 0.05
"""Share of their log-likelihoods that rounding may account for."""


@dataclass(frozen=True, eq=False)
class References:
    """The references of a task's pairs; the model that they are of is read when it is needed.

    Attributes:
      lm: the run's model as it is now.
      task: one of the run's; those that compare no answers need no references.
      batch_size: rows of tokens at once.
    """

    lm: LanguageModel
    task: Task
    batch_size: int

    def of(self, examples: Sequence[Example]) -> list[Example]:
        """The examples; pairs of answers with what the model said of them as training began.

        Raises:
          UserError: there are new pairs, and that model cannot be had any more.
        """
        task = self.task
        if not isinstance(task, Preference) or all(example.place for example in examples):
            return list(examples)
        try:
            model, params = self._begun
            self._check_same(task, model, params)
        except UserError as error:
            reason = f"has no references for pairs that it was not trained on: {error}"
            raise UserError(f"task {name_of(task.config)}", reason) from error
        return self._referred(task, model, params, examples)

    def _referred(
        self, task: Preference, model: Model, params: Params, examples: Sequence[Example]
    ) -> list[Example]:
        new, size = [one for one in examples if not one.place], self.batch_size
        facts = task.refer(model, params, new, batch_size=size, mesh=self.lm.mesh)
        return replace(task, facts=facts).referred(examples)

    @cached_property
    def _begun(self) -> tuple[Model, Params]:
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

    def _check_same(self, task: Preference, model: Model, params: Params) -> None:
        """Raises UserError where the run to begin with is another by now, as some of the pairs that
        this run was trained on tell."""
        base, known = self.lm.config.init_from, self._own
        if base is None or self.lm.model.config.lora is not None or not known:
            return
        blank = replace(task, facts=replace(task.facts, references=()))
        again = self._referred(blank, model, params, blank.referred(known))
        then, now = (np.array([one.target for one in group]) for group in (known, again))
        if np.abs(then - now).sum() > APART * np.abs(then).sum():
            raise UserError(base, "has changed since this run began with it", "restore it")

    @cached_property
    def _own(self) -> list[Example]:
        """A few of the pairs that the run was trained on, where their tables are still there."""
        rows = itertools.chain.from_iterable(map(read_table, self.task.config.train))
        try:
            some = self.task.examples(list(itertools.islice(rows, COMPARED)))
        except UserError as error:
            log.warning("whether %s has changed is not known: %s", self.lm.config.init_from, error)
            return []
        return [one for one in some if one.place]


def _without_adapters(params: Params) -> Params:
    """The parameters with adapters that add nothing."""

    def still(path: tuple, leaf: jax.Array) -> jax.Array:
        return jnp.zeros_like(leaf) if getattr(path[-1], "key", None) == "lora_b" else leaf

    return jax.tree_util.tree_map_with_path(still, params)
