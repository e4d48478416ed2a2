"""A published class for a task becomes a model with its head, in a run that has the task.

Heads of encoders are imported: classification, several labels, regression, tags of words, and parts
of a context. Of other classes only the body is, and a warning says so.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from llmjax.convert.families.family import Family, HeadKind, TaskClass
from llmjax.convert.hf.classes import model_with_head
from llmjax.convert.hf.mapping import read_params
from llmjax.convert.tensors import Index, TensorSource
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.config import TaskConfig
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.multilabel import MultiLabelTask
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.task import TaskContext, network_of
from llmjax.tasks.token_classification import TokenClassificationTask

log = logging.getLogger(__name__)
WITH_HEADS = ("bert", "roberta", "xlm-roberta", "distilbert")
"""Families whose heads are read; of another one the class does not determine the task."""
MAX_LABELS = 1_000_000
WORD_HEAD = ("transform", "unembedding", "unembedding_bias")
"""Parameters of a masked-word head, which a class for a task uses otherwise, or lacks."""


@dataclass(frozen=True)
class PublishedHead:
    """The head of a class of Transformers."""

    kind: HeadKind
    task_class: TaskClass


@dataclass(frozen=True)
class ImportedHead:
    """A model with its head, as read.

    Attributes:
      params: the model's, and its head's under "heads".
      task: of the head.
      facts: its labels.
    """

    params: Params
    task: TaskConfig
    facts: TaskMetadata


def published_head(family: Family, architecture: str | None) -> PublishedHead | None:
    """The head of a class; None where it has no head of a task."""
    for kind, task_class in family.task_classes.items():
        if task_class.architecture == architecture:
            return PublishedHead(kind, task_class)
    return None


def read_with_head(
    source: TensorSource,
    values: Mapping[str, Any],
    published: PublishedHead,
    family: Family,
    setting: TaskContext,
    *,
    dtype: str | None,
    mesh: jax.sharding.Mesh | None,
) -> ImportedHead | None:
    """The model with its head; None, with a warning that says why, where that is not supported.

    Args:
      source: its tensors.
      values: its config.json.
      published: its head.
      family: of the model.
      setting: of the task.
      dtype: of the parameters; None for what they are stored in.
      mesh: the devices; None for the host.

    Raises:
      UserError: a tensor is missing, left over, or of another shape.
    """
    task_class = published.task_class
    try:
        config, facts = _task_of(values, published, _num_outputs(source, task_class), family)
        task = config.open(setting, facts)
        form = model_with_head(task, setting.model, family.model_type)
        if form.family is not family or form.task_class is not task_class:
            raise UserError(task_class.architecture, "does not match its config.json")
    except UserError as error:
        log.warning("the head of %s is left out: %s", task_class.architecture, error)
        return None
    network = network_of(Model(setting.model), [task])
    bound = form.bound(lambda: form.parts(network.abstract_params()))
    params = read_params(source, bound, dtype=dtype, mesh=mesh)
    head = dict(params.pop("head"))
    if form.head.neck == "pooler":
        params["pooler"] = head.pop("dense")
    return ImportedHead(params | {"heads": {form.name: head}}, config, facts)


def _num_outputs(source: TensorSource, task_class: TaskClass) -> int:
    name = f"{task_class.out}.weight"
    shape = source.shape(name) if name in set(source.names()) else ()
    if len(shape) != 2 or not 1 <= shape[0] <= MAX_LABELS:
        reason = f"is {list(shape)}, not a head of {task_class.architecture}"
        raise UserError(f"tensor {name}", reason)
    return shape[0]


def _task_of(
    values: Mapping[str, Any], published: PublishedHead, outputs: int, family: Family
) -> tuple[TaskConfig, TaskMetadata]:
    """The task of a class and its config.json, as Transformers reads them."""
    if family.model_type not in WITH_HEADS:
        raise UserError(
            f"a head of {family.model_type}", "is not supported", "train one on this run"
        )
    if published.kind == "QuestionAnswering":
        if outputs != 2:
            raise UserError("its head", f"has {outputs} outputs, not a start and an end")
        return ExtractiveQATask(), TaskMetadata(labels=("answered", "unanswered"), counts=(1, 0))
    labels = _labels(values, outputs)
    facts = TaskMetadata(labels=labels, counts=(1,) * outputs)
    if published.kind == "TokenClassification":
        return TokenClassificationTask(), facts
    problem = values.get("problem_type")
    if problem is None:
        problem = "regression" if outputs == 1 else "single_label_classification"
    match problem:
        case "regression":
            if outputs != 1:
                raise UserError("problem_type regression", f"has {outputs} outputs, not one")
            target = labels[0] if re.fullmatch(r"[A-Za-z_]\w{0,50}", labels[0]) else "score"
            return RegressionTask(target="score" if target == "LABEL_0" else target), TaskMetadata()
        case "multi_label_classification":
            return MultiLabelTask(), facts
        case "single_label_classification":
            return ClassificationTask(), facts
    raise UserError(f"problem_type {repr(problem)[:60]}", "is not supported")


def _labels(values: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    """id2label, in the order of the head's outputs; LABEL_0 and so on where there is none."""
    by_number = values.get("id2label")
    if by_number is None:
        return tuple(f"LABEL_{number}" for number in range(outputs))
    numbers = [str(number) for number in range(outputs)]
    if not isinstance(by_number, dict) or sorted(by_number) != sorted(numbers):
        raise UserError("id2label", f"does not name the {outputs} outputs of the head")
    labels = tuple(by_number[number] for number in numbers)
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) < outputs:
        raise UserError("id2label", "has labels that are not distinct strings")
    return labels


class BodyTensors:
    """The tensors of a class without its head's, under the family's names (a `TensorSource`)."""

    def __init__(self, source: TensorSource, family: Family, task_class: TaskClass):
        table = family.table
        left_out = {row.tensor for row in table.rows if row.param.split(".")[0] in WORD_HEAD}
        left_out |= {
            row.tensor
            for row in task_class.rows()
            if not (task_class.pools and "dense" in row.param)
        }
        self._source, self._names = source, dict[str, str]()
        for actual in source.names():
            name = table.name(actual, left_out)
            if name in left_out:
                continue
            if task_class.body is not None and actual.startswith(task_class.body):
                name = table.prefix + actual.removeprefix(task_class.body)
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
    """The architecture of a class's body: without a head for words."""
    return replace(shape, tie_embeddings=True, unembed_transform=False, unembed_bias=False)
