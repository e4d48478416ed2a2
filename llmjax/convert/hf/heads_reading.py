"""A published class for a task: a model with its head, as a run that has the task.

Heads of encoders are read whole: classification, several labels, regression, tags of words, and
parts of a context. Of other classes the body alone is read, and a warning says so.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from llmjax.convert.families import Family
from llmjax.convert.families.tops import TOPS, Top, Use
from llmjax.convert.hf.heads import Headed, headed
from llmjax.convert.hf.mapping import Match, read_params
from llmjax.convert.hf.names import canonical
from llmjax.convert.tensors import Index, TensorSource
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.config import TaskConfig
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.heads import Network
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.multilabel import MultiLabelTask
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.task import TaskContext, network_of
from llmjax.tasks.token_classification import TokenClassificationTask

log = logging.getLogger(__name__)
WHOLE = ("bert", "roberta", "xlm-roberta", "distilbert")
"""Families whose heads are read; the task of another is not told by its class alone."""
MOST_LABELS = 1_000_000
NO_HEAD = ("transform", "unembedding", "unembedding_bias")
"""Parameters of a head for words, of which a class for a task makes another use, or none."""


@dataclass(frozen=True)
class Kind:
    """What a class of Transformers is for."""

    use: Use
    top: Top


@dataclass(frozen=True)
class WithHead:
    """What is read of a class for a task.

    Attributes:
      params: the model's, and its head's under "heads".
      task: of the head.
      facts: its labels.
    """

    params: Params
    task: TaskConfig
    facts: TaskMetadata


def kind_of(family: Family, architecture: str | None) -> Kind | None:
    """What a class is for; None where it has no head of a task."""
    tops = TOPS.get(family.model_type, {})
    return next(
        (Kind(use, top) for use, top in tops.items() if top.architecture == architecture), None
    )


def read_with_head(
    source: TensorSource,
    values: Mapping[str, Any],
    kind: Kind,
    family: Family,
    setting: TaskContext,
    *,
    dtype: str | None,
    mesh: jax.sharding.Mesh | None,
) -> WithHead | None:
    """The model with its head; None, with a warning that says why, where that is not read.

    Args:
      source: its tensors.
      values: its config.json.
      kind: what its class is for.
      family: of the model.
      setting: of the task.
      dtype: to hold parameters in; None for what they are stored in.
      mesh: the devices; None for the host.

    Raises:
      UserError: a tensor is missing, or is too many, or of another shape.
    """
    try:
        task, facts = _task_of(values, kind, _outputs(source, kind.top), family)
        opened = task.open(setting, facts)
        form = headed(opened, setting.model, family.model_type)
        if form.family is not family or form.top is not kind.top:
            raise UserError(kind.top.architecture, "is of another build than its config.json says")
    except UserError as error:
        log.warning("the head of %s is left out: %s", kind.top.architecture, error)
        return None
    network = network_of(Model(setting.model), [opened])
    match = Match(form.table, _Parts(form.shape, form, network), {"o": form.head.outputs})
    params = read_params(source, match, dtype=dtype, mesh=mesh)
    own = dict(params.pop("head"))
    if form.head.neck == "pooler":
        params["pooler"] = own.pop("dense")
    return WithHead(params | {"heads": {form.name: own}}, task, facts)


@dataclass(frozen=True)
class _Parts:
    """Parameters as a class has them, for `Match`."""

    config: ModelConfig
    form: Headed
    network: Network

    def abstract_params(self) -> Params:
        return self.form.parts(self.network.abstract_params())


def _outputs(source: TensorSource, top: Top) -> int:
    """How many numbers a head gives."""
    name = f"{top.out}.weight"
    shape = source.shape(name) if name in set(source.names()) else ()
    if len(shape) != 2 or not 1 <= shape[0] <= MOST_LABELS:
        raise UserError(f"tensor {name}", f"is {list(shape)}, no head of {top.architecture}")
    return shape[0]


def _task_of(
    values: Mapping[str, Any], kind: Kind, outputs: int, family: Family
) -> tuple[TaskConfig, TaskMetadata]:
    """The task that a class and its config.json stand for, as Transformers reads them."""
    if family.model_type not in WHOLE:
        raise UserError(f"a head of {family.model_type}", "is not read", "train one on this run")
    if kind.use == "answers":
        if outputs != 2:
            raise UserError("its head", f"gives {outputs} numbers, not a beginning and an end")
        return ExtractiveQATask(), TaskMetadata(labels=("answered", "unanswered"), counts=(1, 0))
    labels = _labels(values, outputs)
    facts = TaskMetadata(labels=labels, counts=(1,) * outputs)
    if kind.use == "tokens":
        return TokenClassificationTask(), facts
    problem = values.get("problem_type")
    if problem is None:
        problem = "regression" if outputs == 1 else "single_label_classification"
    match problem:
        case "regression":
            if outputs != 1:
                raise UserError("problem_type regression", f"has {outputs} numbers, not one")
            target = labels[0] if re.fullmatch(r"[A-Za-z_]\w{0,50}", labels[0]) else "score"
            return RegressionTask(target="score" if target == "LABEL_0" else target), TaskMetadata()
        case "multi_label_classification":
            return MultiLabelTask(), facts
        case "single_label_classification":
            return ClassificationTask(), facts
    raise UserError(f"problem_type {repr(problem)[:60]}", "is not known")


def _labels(values: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    """id2label, in the order of the head's outputs; LABEL_0 and so on where it says nothing."""
    said = values.get("id2label")
    if said is None:
        return tuple(f"LABEL_{number}" for number in range(outputs))
    numbers = [str(number) for number in range(outputs)]
    if not isinstance(said, dict) or sorted(said) != sorted(numbers):
        raise UserError("id2label", f"does not name the {outputs} outputs of the head")
    labels = tuple(said[number] for number in numbers)
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) < outputs:
        raise UserError("id2label", "has labels that are no different words")
    return labels


class Body:
    """The tensors of a class without its head's, under the names that the family has (a
    `TensorSource`)."""

    def __init__(self, source: TensorSource, family: Family, top: Top):
        table = family.table
        heads = {row.name for row in table.rows if row.leaf.split(".")[0] in NO_HEAD}
        own = {row.name for row in top.rows() if not (top.pools and "dense" in row.leaf)}
        self._source, self._names = source, dict[str, str]()
        for actual in source.names():
            name = canonical(table, actual, {*heads, *own})
            if name in heads | own:
                continue
            if top.body is not None and actual.startswith(top.body):
                name = table.prefix + actual.removeprefix(top.body)
            self._names[name] = actual

    def names(self) -> Iterable[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(self._names[name])

    def dtype(self, name: str) -> np.dtype:
        return self._source.dtype(self._names[name])

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        return self._source.read(self._names[name], index)


def body_shape(shape: ModelConfig) -> ModelConfig:
    """The architecture of a class's body: with no way of its own from states to words."""
    return replace(shape, tie_embeddings=True, unembed_transform=False, unembed_bias=False)
