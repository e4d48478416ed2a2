"""What a model is to learn from examples: frozen values, cheap to import."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llmjax.data.tables.table import AnyTable


@dataclass(frozen=True)
class _Task:
    """What every task has."""

    name: str = ""
    """Under which its head and its figures are kept; empty: its kind."""
    train: tuple[AnyTable, ...] = ()
    """Examples to learn from."""
    dev: tuple[AnyTable, ...] = ()
    """Examples to measure on. Empty: a share of those to learn from is held out."""
    dev_fraction: float = 0.1
    """That share; which rows it takes hangs on their contents alone."""
    group: str | None = None
    """Column whose equal values stay together on one side of that division."""
    weight: float = 1.0
    """Share of the steps, relative to the other tasks' weights."""


@dataclass(frozen=True)
class ClassificationTask(_Task):
    """One of several labels for a text, or for a pair of texts; softmax cross-entropy."""

    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of the second text of a pair."""
    label: str = "label"
    """Column of the label: text or integers."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: each label weighs in inverse proportion to how often it occurs."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all labels."""
    kind: Literal["classification"] = "classification"


@dataclass(frozen=True)
class MultiLabelTask(_Task):
    """Any number of labels for a text, or for a pair of texts; sigmoid cross-entropy of each."""

    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of the second text of a pair."""
    labels: str = "labels"
    """Column of the labels: a list, or text with separators."""
    separator: str = ","
    """Between labels in text."""
    kind: Literal["multilabel"] = "multilabel"


@dataclass(frozen=True)
class RegressionTask(_Task):
    """A number for a text, or for a pair of texts; mean squared error."""

    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of the second text of a pair."""
    target: str = "score"
    """Column of the number."""
    kind: Literal["regression"] = "regression"


@dataclass(frozen=True)
class TokenTask(_Task):
    """A tag for every word (named entities, parts of speech), told by its first token."""

    tokens: str = "tokens"
    """Column of the words: a list, or text with spaces between them."""
    tags: str = "tags"
    """Column of the tags, as many as words. Tags B-X and I-X are measured as whole entities."""
    kind: Literal["tokens"] = "tokens"


@dataclass(frozen=True)
class AnswerTask(_Task):
    """The part of a context that answers a question (SQuAD, arXiv:1606.05250, 1806.03822)."""

    question: str = "question"
    """Column of the question."""
    context: str = "context"
    """Column of the text that holds the answer."""
    answers: str = "answers"
    """Column of the answers: {"text": [...], "answer_start": [...]}, counted in characters; empty
    lists where the context has none."""
    stride: int = 64
    """Tokens that neighbouring windows of a long context share."""
    max_answer_tokens: int = 30
    """Longest answer that is given."""
    candidates: int = 20
    """Best beginnings and ends that are combined; also how many answers a prediction lists."""
    no_answer_threshold: float = 0.0
    """Where some questions have no answer: none is given where a prediction's none_score is above
    this; evaluate tells the best."""
    kind: Literal["answers"] = "answers"


@dataclass(frozen=True)
class SequenceTask(_Task):
    """A text from a text: translation, summaries. An encoder-decoder reads and writes; a decoder
    goes on from the prompt."""

    source: str = "source"
    """Column of the text that is given."""
    target: str = "target"
    """Column of the text that is to be written."""
    prompt: str = "{}"
    """What is read: the source stands for {}."""
    beams: int = 1
    """Hypotheses kept side by side when the written text is measured; 1: greedy."""
    max_new_tokens: int = 128
    """Longest text that is written then."""
    measure: int | None = None
    """While training, write for this many of the dev examples only; None: all, 0: none."""
    bleu_tokenize: Literal["13a", "intl", "zh", "char"] = "13a"
    """How BLEU finds words, by sacrebleu's names; zh or char where no blanks stand between them."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over the vocabulary."""
    kind: Literal["sequence"] = "sequence"


@dataclass(frozen=True)
class ChatTask(_Task):
    """Conversations in the model's chat template; only what the assistant says is learnt."""

    messages: str = "messages"
    """Column of a list of {"role": ..., "content": ...}."""
    tools: str | None = "tools"
    """Column of the functions that the model may call: a list of JSON schemas, where there is such
    a column."""
    documents: str | None = None
    """Column of a list of documents that the template reads; none: there are none."""
    kind: Literal["chat"] = "chat"


@dataclass(frozen=True)
class PreferenceTask(_Task):
    """The better of two answers, against the model as it began (DPO, arXiv:2305.18290)."""

    prompt: str = "prompt"
    """Column of what is answered: text, or a list of messages."""
    chosen: str = "chosen"
    """Column of the better answer: text, or a list of messages."""
    rejected: str = "rejected"
    """Column of the worse answer: text, or a list of messages."""
    tools: str | None = "tools"
    """Column of the functions that the model may call: a list of JSON schemas, where there is such
    a column."""
    documents: str | None = None
    """Column of a list of documents that the template reads; none: there are none."""
    beta: float = 0.1
    """How strongly the model is held to where it began."""
    kind: Literal["preference"] = "preference"


@dataclass(frozen=True)
class SimilarityTask(_Task):
    """Vectors of texts that are near for pairs, and far for all others of a batch (in-batch
    contrast, arXiv:1705.00652)."""

    text: str = "text"
    """Column of the first text of a pair."""
    pair: str = "pair"
    """Column of the second."""
    scale: float = 20.0
    """Factor of the cosines, before the softmax over the batch."""
    both: bool = False
    """Whether the second texts look for the first ones too."""
    kind: Literal["similarity"] = "similarity"


TaskConfig: TypeAlias = (
    ClassificationTask
    | MultiLabelTask
    | RegressionTask
    | TokenTask
    | AnswerTask
    | SequenceTask
    | ChatTask
    | PreferenceTask
    | SimilarityTask
)


def name_of(task: TaskConfig) -> str:
    """Under which a task's head and figures are kept."""
    return task.name or task.kind


def task_problems(tasks: Sequence[TaskConfig]) -> Iterator[str]:
    """Everything wrong with the values; nothing is read from disk."""
    names = [name_of(task) for task in tasks]
    for number, task in enumerate(tasks):
        where = f"tasks.{number}"
        if names.index(name_of(task)) != number:
            yield f"{where}.name: {name_of(task)} is another task's name too; give one of its own"
        if any(mark in name_of(task) for mark in "./\\ "):
            yield f"{where}.name: {name_of(task)!r} has a dot, a slash or a space"
        if not task.train:
            yield f"{where}.train: empty; give at least one table"
        if not task.dev and not 0 <= task.dev_fraction < 1:
            yield f"{where}.dev_fraction: {task.dev_fraction} is not in [0, 1)"
        if not 0 < task.weight < 1e30:
            yield f"{where}.weight: {task.weight} is not a positive number"
        yield from (f"{where}.{problem}" for problem in _value_problems(task))


def _value_problems(task: TaskConfig) -> Iterator[str]:
    smoothing = getattr(task, "label_smoothing", 0.0)
    if not 0 <= smoothing < 1:
        yield f"label_smoothing: {smoothing} is not in [0, 1)"
    for table in (*task.train, *task.dev):
        yield from (f"train: {problem}" for problem in table.problems())
    counts = ("stride", "max_answer_tokens", "candidates", "beams", "max_new_tokens")
    for name in counts:
        if getattr(task, name, 1) < 1:
            yield f"{name}: {getattr(task, name)} is not positive"
    measure = getattr(task, "measure", None)
    if measure is not None and measure < 0:
        yield f"measure: {measure} is negative"
    for name in ("beta", "scale"):
        if not 0 < getattr(task, name, 1.0) < 1e9:
            yield f"{name}: {getattr(task, name)} is not a positive number"
    if isinstance(task, AnswerTask) and not abs(task.no_answer_threshold) < 1e9:
        yield f"no_answer_threshold: {task.no_answer_threshold} is not a finite number"
    if isinstance(task, SequenceTask) and task.prompt.count("{}") != 1:
        yield f"prompt: {task.prompt!r} must have {{}} once, where the source goes"
