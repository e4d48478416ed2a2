"""Express a run's model as a Transformers class, with or without the head of a task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from llmjax.convert.families.family import Family, HeadKind, TaskClass
from llmjax.convert.families.registry import family_for
from llmjax.convert.hf.mapping import BoundTable, lazy_tensors
from llmjax.convert.hf.names import NameTable
from llmjax.convert.tensors import LazyTensor
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import TaskConfig, name_of
from llmjax.tasks.heads import Head
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.task import Task

TASK_HEADS: dict[str, tuple[HeadKind, str | None]] = {
    "classification": ("SequenceClassification", "single_label_classification"),
    "multilabel": ("SequenceClassification", "multi_label_classification"),
    "regression": ("SequenceClassification", "regression"),
    "token_classification": ("TokenClassification", None),
    "extractive_qa": ("QuestionAnswering", None),
}
"""Task kind -> head kind in Transformers, and problem_type."""
NOT_IN_TASK_CLASSES = ("unembedding", "unembedding_bias", "transform", "pooler", "heads")
"""Parameters that task classes lack, unless they are part of the head."""


@dataclass(frozen=True)
class PlainModel:
    """A model without a task head: a language model, a masked language model or a bare encoder.

    Attributes:
      family: the model's family.
      shape: the architecture in its config.json.
    """

    family: Family
    shape: ModelConfig

    def tensors(self, params: Params, dtype: str | None) -> list[LazyTensor]:
        """The tensors to write; `dtype` None keeps the parameters' dtypes."""
        table = self.family.table
        tensors = {
            tensor.name: tensor
            for tensor in lazy_tensors(params, BoundTable(table, Model(self.shape)), dtype)
        }
        for name, original in table.copies_of(self.shape).items():
            if original in tensors:
                tensors[name] = replace(tensors[original], name=name)
        return [replace(each, name=self.published_name(each.name)) for each in tensors.values()]

    def published_name(self, name: str) -> str:
        """The published name of a tensor or module in the family's table, without the table's
        prefix for a base model."""
        base = bool(self.family.base_architecture) and not self.shape.lm_head_transform
        return name.removeprefix(self.family.table.prefix) if base else name


@dataclass(frozen=True)
class AbstractModel:
    """A `ModelLike` of a config and a function that returns parameter shapes."""

    config: ModelConfig
    abstract_params: Callable[[], Params]


@dataclass(frozen=True)
class ModelWithHead:
    """A model with the head of one task.

    Attributes:
      family: the model's family.
      shape: the architecture in its config.json.
      task_class: the Transformers class.
      head: the head in llmjax.
      name: the task's name.
      kind: the head's kind in Transformers.
    """

    family: Family
    shape: ModelConfig
    task_class: TaskClass
    head: Head
    name: str
    kind: HeadKind

    def published_name(self, name: str) -> str:
        """The name that a tensor or module of the family's table has in this class."""
        return self.task_class.name(self.family.table, name)

    def saved_modules(self) -> list[str]:
        """The modules that hold the head's parameters."""
        names = [self.task_class.out]
        if self.task_class.dense and self.head.neck != "pooler":
            names.append(self.task_class.dense.removeprefix(self.family.table.prefix))
        return sorted({name.partition(".")[0] for name in names})

    def tensors(self, params: Params, dtype: str | None) -> list[LazyTensor]:
        """The tensors to write of merged parameters and heads; `dtype` None keeps their dtypes."""
        parts = self.parts(params)

        def abstract() -> Params:
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), parts)

        tensors = lazy_tensors(parts, self.bound(abstract), dtype)
        return [replace(tensor, name=self.published_name(tensor.name)) for tensor in tensors]

    def config_fields(self, task: Task, tokenizer: Tokenizer) -> dict[str, Any]:
        """The fields of config.json about the head: labels and problem type."""
        architectures = [self.task_class.architecture]
        fields = {"architectures": architectures, **label_fields(task.config, task.metadata)}
        if self.shape.num_decoder_layers:
            fields["pad_token_id"] = tokenizer.pad_id  # the last token before padding is classified
        if self.family.model_type == "modernbert":
            fields["classifier_pooling"] = "cls"
        return fields

    def bound(self, abstract_params: Callable[[], Params]) -> BoundTable:
        """The name table bound to the parameters that `parts` returns."""
        model = AbstractModel(self.shape, abstract_params)
        return BoundTable(self.table, model, {"o": self.head.outputs})

    @property
    def table(self) -> NameTable:
        """The family's name table, plus the head's parameters under "head"."""
        rows = (*self.family.table.rows, *self.task_class.rows())
        if self.task_class.pools:
            rows = tuple(row for row in rows if not row.param.startswith("pooler."))
        return replace(self.family.table, rows=rows)

    def parts(self, params: Params) -> Params:
        """The parameters of the class, with its head's under "head"."""
        head = params["heads"][self.name]
        parts = {name: value for name, value in params.items() if name not in NOT_IN_TASK_CLASSES}
        if self.head.neck == "transform":
            parts["transform"] = params["transform"]
        if self.head.neck == "pooler":
            head = head | {"dense": params["pooler"]}
        return parts | {"head": head}


def export_form(
    shape: ModelConfig, task: Task | None, preferred: str | None
) -> PlainModel | ModelWithHead:
    """The Transformers class to export a model as.

    Args:
      shape: the architecture, without adapters.
      task: the task whose head is exported; None for none.
      preferred: model_type to try first.

    Raises:
      UserError: no published class computes the same function.
    """
    if task is not None and task.head is not None:
        return model_with_head(task, shape, preferred)
    if task is not None and task.config.kind == "similarity" and not shape.num_decoder_layers:
        # Drop the masked-language-model head.
        shape = replace(shape, lm_head_transform=False, lm_head_bias=False, tie_embeddings=True)
    return PlainModel(family_for(shape, preferred), shape)


def with_next_tokens(
    form: PlainModel | ModelWithHead, shape: ModelConfig
) -> PlainModel | ModelWithHead:
    """The form, with the layer for tokens after next of `shape`, if its files can have that.

    Other programs expect experts in that layer where the model has some.
    """
    experts = shape.multi_token_experts
    expected = experts == (shape.moe is not None)
    if not shape.multi_token or not expected or isinstance(form, ModelWithHead):
        return form
    complete = replace(form.shape, multi_token=True, multi_token_experts=experts)
    return form if form.family.unsupported(complete) else PlainModel(form.family, complete)


def model_with_head(task: Task, shape: ModelConfig, preferred: str | None) -> ModelWithHead:
    """The class with a task's head; as `export_form`."""
    head, name = task.head, name_of(task.config)
    if head is None or task.config.kind not in TASK_HEADS:
        raise UserError(f"task {name}", "has no head")
    kind, _ = TASK_HEADS[task.config.kind]
    transform = head.neck == "transform"
    body = replace(
        shape,
        pooler=False,
        lm_head_transform=transform,
        lm_head_bias=shape.lm_head_bias and transform,
    )
    if not shape.num_decoder_layers and not transform:
        body = replace(body, tie_embeddings=True)
    family = family_for(body, preferred)
    fix = "llmjax predict supports any head"
    if kind not in family.task_classes:
        reason = f"Transformers has no {family.model_type} class for {kind}"
        raise UserError(f"task {name}", reason, fix)
    task_class = family.task_classes[kind]
    if head.neck not in task_class.necks or head.bias != task_class.bias:
        reason = f"its head ({head.neck}) differs from that of {task_class.architecture}"
        raise UserError(f"task {name}", reason, fix)
    return ModelWithHead(
        family, replace(body, pooler=task_class.pools), task_class, head, name, kind
    )


def choose_task(tasks: Sequence[Task], name: str | None) -> Task | None:
    """The task with this name, or the only task; None if there are no tasks.

    Raises:
      UserError: there is no such task, or there are several and no name is given.
    """
    by_name = {name_of(task.config): task for task in tasks}
    if name is not None:
        if name not in by_name:
            fix = f"it has {', '.join(by_name)}" if by_name else "it was trained on text alone"
            raise UserError(f"task {name}", "this run has no such task", fix)
        return by_name[name]
    if len(by_name) > 1:
        raise UserError("this run", f"has {len(by_name)} tasks", f"--task: {', '.join(by_name)}")
    return next(iter(by_name.values()), None)


def label_fields(config: TaskConfig, metadata: TaskMetadata) -> dict[str, Any]:
    """id2label, label2id and problem_type."""
    labels: tuple[str, ...] = metadata.labels
    if config.kind == "regression":
        labels = config.target_columns
    elif config.kind == "extractive_qa":
        labels = ("start", "end")
    fields: dict[str, Any] = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    _, problem = TASK_HEADS[config.kind]
    return fields if problem is None else fields | {"problem_type": problem}
