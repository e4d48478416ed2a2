"""What is measured of each kind of task, by name: known before anything is measured."""

from collections.abc import Sequence

from llmjax.errors import UserError
from llmjax.metrics.tags import has_entities
from llmjax.tasks.config import (
    AnswerTask,
    ChatTask,
    ClassificationTask,
    MultiLabelTask,
    PreferenceTask,
    RegressionTask,
    SequenceTask,
    SimilarityTask,
    TaskConfig,
    TokenTask,
    name_of,
)
from llmjax.tasks.task import Facts

_LABELS = ("accuracy", "f1_macro", "f1_micro", "matthews")
_FIGURES: dict[type, tuple[str, ...]] = {
    ClassificationTask: (*_LABELS, "loss"),
    MultiLabelTask: ("f1_micro", "f1_macro", "exact_match", "loss"),
    RegressionTask: ("pearson", "spearman", "mean_squared_error", "mean_absolute_error"),
    AnswerTask: ("f1", "exact_match"),
    SequenceTask: ("bleu", "chrf", "exact_match"),
    ChatTask: ("loss", "perplexity", "accuracy"),
    PreferenceTask: ("accuracy", "loss", "margin"),
    SimilarityTask: ("accuracy", "mean_reciprocal_rank", "loss", "spearman"),
}
_MIXED = ("answered_f1", "answered_exact_match", "unanswered_accuracy")
"""Where some questions have an answer and some have none."""


def figures_of(config: TaskConfig, facts: Facts) -> tuple[str, ...]:
    """The figures by which a best checkpoint can be found, the task's own first."""
    if isinstance(config, TokenTask):
        entities = has_entities([facts.labels])
        return ("f1", "precision", "recall", "accuracy") if entities else _LABELS
    mixed = isinstance(config, AnswerTask) and all(facts.counts)
    return _FIGURES[type(config)] + (_MIXED if mixed else ())


def check_metric(
    metric: str | None, tasks: Sequence[tuple[TaskConfig, Facts]], *, several: bool
) -> None:
    """Checks that a run can go by this figure of its tasks.

    Args:
      metric: its name.
      tasks: those that are measured.
      several: whether the run has several, so that figures stand behind their task's name.

    Raises:
      UserError: none of them is measured by it.
    """
    if metric is None or metric == "loss":
        return
    known = [
        f"{name_of(config)}.{name}" if several else name
        for config, facts in tasks
        for name in figures_of(config, facts)
    ]
    if metric not in known:
        listed = ", ".join(dict.fromkeys(["loss", *known]))
        raise UserError(
            f"evaluation.metric {metric}", "is not measured here", f"choose one of {listed}"
        )
