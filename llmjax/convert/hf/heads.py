"""Import the task heads of published classes, as runs that have the task.

Supported are heads for single- and multi-label classification, regression, token classification and
extractive QA. Of a head that cannot be read only the body is imported, with a warning.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax

from llmjax.convert.families.family import Family, HeadKind, TaskClass
from llmjax.convert.hf.classes import model_with_head
from llmjax.convert.hf.mapping import read_params
from llmjax.convert.tensors import RenamedTensors, TensorSource
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
MAX_LABELS = 1_000_000
MLM_HEAD = ("transform", "unembedding", "unembedding_bias")
"""Parameters of a masked-language-model head, which task classes lack or use differently."""


@dataclass(frozen=True)
class PublishedHead:
    """The head of a Transformers class."""

    kind: HeadKind
    task_class: TaskClass


@dataclass(frozen=True)
class ImportedHead:
    """An imported model with its head.

    Attributes:
      params: the model's parameters, with its head's under "heads".
      task: the head's task.
      metadata: its labels.
    """

    params: Params
    task: TaskConfig
    metadata: TaskMetadata


def published_head(family: Family, architecture: str | None) -> PublishedHead | None:
    """The task head of a class; None if it has none."""
    for kind, task_class in family.task_classes.items():
        if task_class.architecture == architecture:
            return PublishedHead(kind, task_class)
    return None


def read_with_head(
    source: TensorSource,
    values: Mapping[str, Any],
    published: PublishedHead,
    family: Family,
    context: TaskContext,
    *,
    dtype: str | None,
    mesh: jax.sharding.Mesh | None,
) -> ImportedHead | None:
    """Read a model with its head; None, with a warning, if the head is not supported.

    Args:
      source: the model's tensors.
      values: its config.json.
      published: its head.
      family: its family.
      context: for opening the task.
      dtype: of the parameters; None for their stored dtypes.
      mesh: the devices; None for the host.

    Raises:
      UserError: a tensor is missing, unexpected, or of the wrong shape.
    """
    task_class = published.task_class
    try:
        config, metadata = _task_of(values, published, _num_outputs(source, task_class))
        task = config.open(context, metadata)
        form = model_with_head(task, context.model, family.model_type)
        if form.family is not family or form.task_class is not task_class:
            raise UserError(task_class.architecture, "does not match its config.json")
    except UserError as error:
        log.warning("the head of %s is not imported: %s", task_class.architecture, error)
        return None
    network = network_of(Model(context.model), [task])
    bound = form.bound(lambda: form.parts(network.abstract_params()))
    params = read_params(source, bound, dtype=dtype, mesh=mesh)
    head = dict(params.pop("head"))
    if form.head.neck == "pooler":
        params["pooler"] = head.pop("dense")
    return ImportedHead(params | {"heads": {form.name: head}}, config, metadata)


def _num_outputs(source: TensorSource, task_class: TaskClass) -> int:
    name = f"{task_class.out}.weight"
    shape = source.shape(name) if name in set(source.names()) else ()
    if len(shape) != 2 or not 1 <= shape[0] <= MAX_LABELS:
        reason = f"has shape {list(shape)}, which is not a head of {task_class.architecture}"
        raise UserError(f"tensor {name}", reason)
    return shape[0]


def _task_of(
    values: Mapping[str, Any], published: PublishedHead, outputs: int
) -> tuple[TaskConfig, TaskMetadata]:
    """The task that Transformers infers from a class and its config.json."""
    if published.kind == "QuestionAnswering":
        if outputs != 2:
            raise UserError("its head", f"has {outputs} outputs instead of 2 (start and end)")
        return ExtractiveQATask(), TaskMetadata(labels=("answered", "unanswered"), counts=(1, 0))
    pooling = values.get("classifier_pooling", "cls")  # of ModernBERT
    if published.kind == "SequenceClassification" and pooling != "cls":
        reason = "heads that read anything but the first token are not supported"
        raise UserError(f"classifier_pooling {repr(pooling)[:60]}", reason)
    labels = _labels(values, outputs)
    metadata = TaskMetadata(labels=labels, counts=(1,) * outputs)
    if published.kind == "TokenClassification":
        return TokenClassificationTask(), metadata
    problem = values.get("problem_type")
    if problem is None:
        problem = "regression" if outputs == 1 else "single_label_classification"
    match problem:
        case "regression":
            if outputs != 1:
                raise UserError("problem_type regression", f"has {outputs} outputs instead of 1")
            target = labels[0] if re.fullmatch(r"[A-Za-z_]\w{0,50}", labels[0]) else "score"
            return RegressionTask(target="score" if target == "LABEL_0" else target), TaskMetadata()
        case "multi_label_classification":
            return MultiLabelTask(), metadata
        case "single_label_classification":
            return ClassificationTask(), metadata
    raise UserError(f"problem_type {repr(problem)[:60]}", "is not supported")


def _labels(values: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    """The labels of id2label, by output; LABEL_0, LABEL_1, ... if there is no id2label."""
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


class BodyTensors(RenamedTensors):
    """The tensors of a class without its head, under the family's names."""

    def __init__(self, source: TensorSource, family: Family, task_class: TaskClass):
        table = family.table
        unused = set(MLM_HEAD) - set(task_class.necks)
        skipped = {row.tensor for row in table.rows if row.param.split(".")[0] in unused}
        skipped |= {
            row.tensor
            for row in task_class.rows()
            if not (task_class.pools and "dense" in row.param)
        }
        names = dict[str, str]()
        for actual in source.names():
            name = table.name(actual, skipped)
            if name in skipped:
                continue
            if task_class.body is not None and actual.startswith(task_class.body):
                name = table.prefix + actual.removeprefix(task_class.body)
            names[name] = actual
        super().__init__(source, names)


def body_shape(shape: ModelConfig, task_class: TaskClass) -> ModelConfig:
    """The architecture of a class's body, without what it lacks of a masked-language-model head."""
    transform = shape.lm_head_transform and "transform" in task_class.necks
    return replace(
        shape,
        tie_embeddings=True,
        lm_head_transform=transform,
        lm_head_bias=False,
        multi_token=False,
        multi_token_experts=False,
    )
