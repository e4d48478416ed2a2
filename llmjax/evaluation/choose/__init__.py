"""The verb `choose`: multiple choice by likelihood, without any training for it (zero-shot).

Each choice is rated by the log-likelihood of its tokens after the question's, the tokens being
those of the two texts put together, cut where the question's own tokens end: as EleutherAI's
lm-evaluation-harness does it, so that figures compare. `accuracy` takes the likeliest choice
(there: acc), `accuracy_per_byte` the one of most log-likelihood per UTF-8 byte (there: acc_bytes,
and acc_norm where texts are ASCII).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import read_table
from llmjax.errors import UserError
from llmjax.evaluation.choose.questions import Question, pairs_of, read_question
from llmjax.inference.language_model import LanguageModel, load
from llmjax.metrics.metric import Metrics, means
from llmjax.model.compute import Dtype
from llmjax.parallel.mesh import MeshConfig
from llmjax.scoring.continuations import Likelihood, score_continuations


@dataclass(frozen=True)
class Rated:
    """A question with what the model says of its choices.

    Attributes:
      number: of the question, from 1.
      question: as read.
      log_likelihoods: of each choice, in nats.
      greedy: whether each choice is what the model would write by itself.
    """

    number: int
    question: Question
    log_likelihoods: tuple[float, ...]
    greedy: tuple[bool, ...]

    @property
    def choice(self) -> int:
        """The likeliest choice."""
        return int(np.argmax(self.log_likelihoods))

    @property
    def choice_per_byte(self) -> int:
        """The choice of most log-likelihood per byte of its text."""
        sizes = [len(choice.encode()) for choice in self.question.choices]
        return int(np.argmax(np.divide(self.log_likelihoods, sizes)))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON; probabilities are shares among the choices."""
        shares = np.exp(np.subtract(self.log_likelihoods, max(self.log_likelihoods)))
        choices = self.question.choices
        return {
            "question": self.number,
            "choice": self.choice,
            "choice_per_byte": self.choice_per_byte,
            "text": choices[self.choice],
            "answer": self.question.answer,
            "log_likelihoods": list(self.log_likelihoods),
            "probabilities": (shares / shares.sum()).tolist(),
            "greedy": list(self.greedy),
        }


@dataclass(frozen=True)
class Choices:
    """What the questions of a file come to; print it for a table.

    Attributes:
      run: the run folder.
      step: of the checkpoint.
      data: the file.
      questions: how many there are.
      measures: accuracy and accuracy_per_byte with 95 % bootstrap intervals, of the questions that
        come with their answer; None where none does.
      chance: what guessing would come to on these; None likewise.
      seconds: wall-clock time of reading, encoding, compiling and rating.
    """

    run: str
    step: int
    data: str
    questions: int
    measures: Metrics | None
    chance: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data, for JSON."""
        return {
            "run": self.run,
            "step": self.step,
            "data": self.data,
            "questions": self.questions,
            "measures": None if self.measures is None else self.measures.to_dict(),
            "chance": self.chance,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        answered = 0 if self.measures is None else self.measures.examples
        rows = {"questions": f"{self.questions:,}, {answered:,} with their answer"}
        for name, value, low, high, _ in () if self.measures is None else self.measures.metrics:
            interval = f"(95 % interval {low:.2%} to {high:.2%})"
            rows[name.replace("_", " ")] = f"{value:.2%} {interval}"
        if self.chance is not None:
            rows["chance"] = f"{self.chance:.2%}"
        rows["time"] = f"{self.seconds:.1f} s, {self.questions / self.seconds:,.1f} questions/s"
        lines = (f"  {name:19}{value}" for name, value in rows.items())
        return "\n".join([f"{self.run} at step {self.step} on {self.data}", *lines])


def choose(
    run: str | Path | LanguageModel,
    data: str | Path | Sequence[str | Path],
    *,
    prompt: str = "{}",
    delimiter: str = " ",
    limit: int | None = None,
    batch_size: int = 16,
    step: int | None = None,
    dtype: Dtype | None = None,
    mesh: Mesh | MeshConfig | None = None,
    each: Callable[[Rated], object] | None = None,
) -> Choices:
    """Answers the multiple-choice questions of files.

    Args:
      run: a run folder, or a model in hand (then step, dtype and mesh are its own).
      data: JSONL files, or other tables, with columns "question" or "context", "choices" (a list of
        texts) and optionally "answer" (a choice's number from 0, or its text).
      prompt: what the model reads before a choice; the question stands for {}.
      delimiter: between that and the choice.
      limit: only so many of the first questions; None: all.
      batch_size: rows read at once.
      step: which checkpoint; None for the newest complete one.
      dtype: what is computed in; None: as trained.
      mesh: the devices to use; None for one device.
      each: is told of every question, in order, as soon as its choices are rated.

    Raises:
      UserError: no such run, step or file; a question that cannot be read (with its place); a
        choice without tokens or longer than the context; a model without decoder.
    """
    lm = run if isinstance(run, LanguageModel) else load(run, step=step, dtype=dtype, mesh=mesh)
    began = time.perf_counter()
    if "{}" not in prompt:
        raise UserError(f"prompt {prompt!r}", "has no place for the question", "write {} there")
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}", "is not positive")
    paths = [str(path) for path in ([data] if isinstance(data, str | Path) else data)]
    rows = read_table(FileTable(paths=tuple(paths)))
    questions = [read_question(row) for row in islice(rows, limit)]
    hits = list[tuple[bool, bool]]()
    for rated in rate(lm, questions, prompt=prompt, delimiter=delimiter, batch_size=batch_size):
        if each is not None:
            each(rated)
        answer = rated.question.answer
        if answer is not None:
            hits.append((rated.choice == answer, rated.choice_per_byte == answer))
    chances = [1 / len(one.choices) for one in questions if one.answer is not None]
    return Choices(
        run=lm.config.run_dir,
        step=lm.step,
        data=", ".join(paths),
        questions=len(questions),
        measures=_measures(hits),
        chance=math.fsum(chances) / len(chances) if chances else None,
        seconds=time.perf_counter() - began,
    )


def rate(
    lm: LanguageModel,
    questions: Sequence[Question],
    *,
    prompt: str = "{}",
    delimiter: str = " ",
    batch_size: int = 16,
) -> Iterator[Rated]:
    """Rates the choices of each question, in order, as the batches come in; see choose."""
    texts = [prompt.replace("{}", one.text) for one in questions]
    pairs = pairs_of(lm, questions, texts, delimiter)
    found = score_continuations(
        lm.model,
        lm.params,
        pairs,
        bos_id=lm.tokenizer.bos_id,
        batch_size=batch_size,
        mesh=lm.mesh,
    )
    return (
        _rated(number, question, list(islice(found, len(question.choices))))
        for number, question in enumerate(questions, 1)
    )


def _rated(number: int, question: Question, found: Sequence[Likelihood]) -> Rated:
    totals, greedy = zip(*found, strict=True)
    return Rated(number, question, totals, greedy)


def _measures(hits: Sequence[tuple[bool, bool]]) -> Metrics | None:
    if not hits:
        return None
    by_sum, by_byte = np.array(hits, float).T
    figures = means({"accuracy": by_sum, "accuracy_per_byte": by_byte})
    return Metrics(tuple(figures), len(hits))
