"""A task's head and the model under it, as one of Transformers' classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from llmjax.convert.families import Family, family_for
from llmjax.convert.families.tops import TOPS, USES, Top, Use
from llmjax.convert.hf.mapping import Match, plan_tensors
from llmjax.convert.hf.names import NameTable
from llmjax.convert.tensors import Planned
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.params import Params
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.config import TaskConfig, name_of
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.heads import Head
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.multilabel import MultiLabelTask
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.task import Task
from llmjax.tasks.token_classification import TokenClassificationTask

WITHOUT = ("unembedding", "unembedding_bias", "transform", "pooler", "heads")
"""Parameters that a class for a task does not have, unless its head is made of them."""
_OTHERWISE = "llmjax predict takes any head"


@dataclass(frozen=True)
class Headed:
    """A model with one head, as a class of Transformers.

    Attributes:
      family: whose body it is.
      shape: what its config.json states.
      top: the class.
      head: ours.
      name: of the task.
      use: what the head is for.
    """

    family: Family
    shape: ModelConfig
    top: Top
    head: Head
    name: str
    use: Use

    def called(self, name: str) -> str:
        """What a tensor or module of the family's table is called in this class."""
        return self.top.name(self.family.table, name)

    def saved_modules(self) -> list[str]:
        """The modules that the head's own parameters lie in."""
        names = [self.top.out]
        if self.top.dense and self.head.neck != "pooler":
            names.append(self.top.dense.removeprefix(self.family.table.prefix))
        return sorted({name.partition(".")[0] for name in names})

    def tensors(self, params: Params, dtype: str | None) -> list[Planned]:
        """What is written.

        Args:
          params: the model's, merged, and its heads'.
          dtype: to write; None for what they are in.
        """
        plan = plan_tensors(self.parts(params), self.match(params), dtype)
        return [replace(one, name=self.called(one.name)) for one in plan]

    def fields(self, task: Task, tokenizer: Tokenizer) -> dict[str, Any]:
        """What config.json says of the head: its labels, and how its numbers are to be read."""
        found = {
            "architectures": [self.top.architecture],
            **label_fields(task.config, task.metadata),
        }
        if self.shape.num_decoder_layers:
            found["pad_token_id"] = tokenizer.pad_id  # what is not padding comes before it
        if self.family.model_type == "modernbert":
            found["classifier_pooling"] = "cls"
        return found

    def match(self, params: Params) -> Match:
        """The parameters' names in this class."""
        parts = _Parts(self.shape, self.parts(params))
        return Match(self.table, parts, {"o": self.head.outputs})

    @property
    def table(self) -> NameTable:
        """The names of the family's parameters, and of the head's under "head"."""
        rows = (*self.family.table.rows, *self.top.rows())
        if self.top.pools:
            rows = tuple(row for row in rows if not row.leaf.startswith("pooler."))
        return replace(self.family.table, rows=rows)

    def parts(self, params: Params) -> Params:
        """The parameters that the class has, its head's under "head"."""
        own = params["heads"][self.name]
        found = {name: value for name, value in params.items() if name not in WITHOUT}
        if self.head.neck == "transform":
            found["transform"] = params["transform"]
        if self.head.neck == "pooler":
            own = own | {"dense": params["pooler"]}
        return found | {"head": own}


@dataclass(frozen=True)
class _Parts:
    """Parameters as they lie there, for `Match`."""

    config: ModelConfig
    params: Params

    def abstract_params(self) -> Params:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), self.params)


def choose_task(tasks: Sequence[Task], name: str | None) -> Task | None:
    """The task of this name, or the only one; None where there are none.

    Raises:
      UserError: there is no such task, or there are several and none is named.
    """
    there = {name_of(task.config): task for task in tasks}
    if name is not None:
        if name not in there:
            have = f"it has {', '.join(there)}" if there else "it was trained on text alone"
            raise UserError(f"task {name}", "this run has no such task", have)
        return there[name]
    if len(there) > 1:
        raise UserError("this run", f"has {len(there)} tasks", f"--task: {', '.join(there)}")
    return next(iter(there.values()), None)


def headed(task: Task, shape: ModelConfig, preferred: str | None) -> Headed:
    """The class for a task's head.

    Args:
      task: has a head.
      shape: the model's, without adapters.
      preferred: model_type to try first.

    Raises:
      UserError: no published class computes the same.
    """
    head, name, use = task.head, name_of(task.config), use_of(task.config)
    assert head is not None
    transform = head.neck == "transform"
    body = replace(
        shape,
        pooler=False,
        unembed_transform=transform,
        unembed_bias=shape.unembed_bias and transform,
    )
    if not shape.num_decoder_layers and not transform:
        body = replace(body, tie_embeddings=True)
    family = family_for(body, preferred)
    tops = TOPS.get(family.model_type, {})
    if use not in tops:
        reason = f"Transformers has no {family.model_type} class for {USES[use]}"
        raise UserError(f"task {name}", reason, _OTHERWISE)
    top = tops[use]
    if head.neck not in top.necks or head.bias != top.bias:
        reason = f"its head ({head.neck}) is not what {top.architecture} has"
        raise UserError(f"task {name}", reason, _OTHERWISE)
    return Headed(family, replace(body, pooler=top.pools), top, head, name, use)


def use_of(config: TaskConfig) -> Use:
    """What a task's head is for.

    Raises:
      UserError: no class of Transformers is for that.
    """
    match config:
        case ClassificationTask() | MultiLabelTask() | RegressionTask():
            return "text"
        case TokenClassificationTask():
            return "tokens"
        case ExtractiveQATask():
            return "answers"
    raise UserError(f"task {name_of(config)}", "has no head")


def label_fields(config: TaskConfig, facts: TaskMetadata) -> dict[str, Any]:
    """id2label, label2id and problem_type."""
    labels: tuple[str, ...] = facts.labels
    kind: str | None = None
    match config:
        case ClassificationTask():
            kind = "single_label_classification"
        case MultiLabelTask():
            kind = "multi_label_classification"
        case RegressionTask():
            kind, labels = "regression", (config.target,)
        case ExtractiveQATask():
            labels = ("start", "end")
    found: dict[str, Any] = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    return found if kind is None else found | {"problem_type": kind}
