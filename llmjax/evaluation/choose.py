"""The command `choose`: multiple choice by likelihood, without any training for it (zero-shot).

Each choice is rated by the log-likelihood of its tokens after the question's, the tokens being
those of the two texts put together, cut where the question's own tokens end: as EleutherAI's
lm-evaluation-harness does it, so that figures compare. `accuracy` takes the likeliest choice
(there: acc), `accuracy_per_byte` the one of most log-likelihood per UTF-8 byte (there: acc_bytes,
and acc_norm where texts are ASCII).
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import Row, list_at, read_table
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.metrics.metric import Metrics, means
from llmjax.run.config.options import keyword_options
from llmjax.scoring.continuations import Pair, score_continuations
from llmjax.storage.json_documents import RECORD, parse_json

NUMBER = re.compile("[0-9]{1,9}")


class Question(NamedTuple):
    """One row of the data.

    Attributes:
      place: where it stands, for messages.
      text: what stands before each choice.
      choices: texts, at least two.
      answer: which of them is right; None where it is not given.
    """

    place: str
    text: str
    choices: tuple[str, ...]
    answer: int | None


@dataclass(frozen=True)
class Rated:
    """A question with the likelihoods of its choices.

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
    """The result of a file of questions; print it for a table.

    Attributes:
      run: the run folder.
      step: of the checkpoint.
      data: the file.
      questions: how many there are.
      measures: accuracy and accuracy_per_byte with 95 % bootstrap intervals, of the questions that
        come with their answer; None where none does.
      chance: the accuracy of guessing on these; None likewise.
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


@dataclass(frozen=True)
class ChooseOptions(LoadOptions):
    """Options of choose."""

    data: tuple[str, ...] = ()
    """JSONL files (also CSV, TSV, Parquet, compressed): a line {"question": ..., "choices": [...],
    "answer": its number from 0, or its text; may be missing} for each question; "context" may stand
    for "question"."""
    prompt: str = "{}"
    """What the model reads before a choice; {} stands for the question."""
    delimiter: str = " "
    """Between the prompt and the choice."""
    limit: int | None = None
    """Only so many of the first questions; none: all."""
    batch_size: int = 16
    """Rows read at once."""


@keyword_options("data")
def choose(
    run: str | Path | LanguageModel,
    options: ChooseOptions,
    *,
    each: Callable[[Rated], object] | None = None,
) -> Choices:
    """Answers the multiple-choice questions of files.

    Args:
      run: a run folder, or a loaded model.
      options: fields of ChooseOptions, also as keywords.
      each: called with every question, in order, as soon as its choices are rated.

    Raises:
      UserError: no such run, step or file; a question that cannot be read (with its place); a
        choice without tokens or longer than the context; a model without decoder.
    """
    lm, began = loaded(run, options), time.perf_counter()
    if "{}" not in options.prompt:
        reason = "has no place for the question"
        raise UserError(f"prompt {options.prompt!r}", reason, "write {} there")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"limit {options.limit}", "is not positive")
    paths = tuple(map(str, options.data))
    rows = read_table(FileTable(paths=paths))
    questions = [read_question(row) for row in islice(rows, options.limit)]
    correct = list[tuple[bool, bool]]()
    for rated in rate(lm, questions, options):
        if each is not None:
            each(rated)
        answer = rated.question.answer
        if answer is not None:
            correct.append((rated.choice == answer, rated.choice_per_byte == answer))
    chances = [1 / len(q.choices) for q in questions if q.answer is not None]
    return Choices(
        run=lm.config.run_dir,
        step=lm.step,
        data=", ".join(paths),
        questions=len(questions),
        measures=_measures(correct),
        chance=math.fsum(chances) / len(chances) if chances else None,
        seconds=time.perf_counter() - began,
    )


def rate(
    lm: LanguageModel, questions: Sequence[Question], options: ChooseOptions
) -> Iterator[Rated]:
    """Rates the choices of each question, in order, as the batches come in; see choose."""
    texts = [options.prompt.replace("{}", question.text) for question in questions]
    likelihoods = score_continuations(
        lm.model,
        lm.params,
        pairs_of(lm, questions, texts, options.delimiter),
        bos_id=lm.tokenizer.bos_id,
        batch_size=options.batch_size,
        mesh=lm.mesh,
    )
    for number, question in enumerate(questions, 1):
        totals, greedy = zip(*islice(likelihoods, len(question.choices)), strict=True)
        yield Rated(number, question, totals, greedy)


def _measures(correct: Sequence[tuple[bool, bool]]) -> Metrics | None:
    if not correct:
        return None
    by_sum, by_byte = np.array(correct, float).T
    figures = means({"accuracy": by_sum, "accuracy_per_byte": by_byte})
    return Metrics(tuple(figures), len(correct))


def pairs_of(
    lm: LanguageModel, questions: Sequence[Question], texts: Sequence[str], delimiter: str
) -> list[Pair]:
    """(tokens before a choice, the choice's tokens) of every choice of every question."""
    tokenizer, limit = lm.tokenizer, lm.model.config.max_length
    heads, tails = list[str](), list[str]()
    for question, text in zip(questions, texts, strict=True):
        # Blanks at a prompt's end belong to the word that follows: tokens begin with them.
        kept = text.rstrip()
        heads += [kept] * len(question.choices)
        tails += [text[len(kept) :] + delimiter + choice for choice in question.choices]
    encoded = tokenizer.encode_batch(heads)
    pairs: list[Pair]
    if lm.model.config.is_encoder_decoder:
        answers = tokenizer.encode_batch(tails)
        pairs = [(tokenizer.wrap(a)[0], b) for a, b in zip(encoded, answers, strict=True)]
    else:
        both = tokenizer.encode_batch([a + b for a, b in zip(heads, tails, strict=True)])
        before = tokenizer.prefix
        pairs = [
            ([*before, *head] or [tokenizer.bos_id], whole[len(head) :])
            for head, whole in zip(encoded, both, strict=True)
        ]
    places = (f"{q.place}, choice {n}" for q in questions for n in range(len(q.choices)))
    for place, (_, tail) in zip(places, pairs, strict=True):
        if not tail:
            raise UserError(place, "adds no token to its question", "fix the choice")
        if len(tail) > limit:
            raise UserError(place, f"has {len(tail)} tokens, the model's context is {limit}")
    return pairs


def read_question(row: Row) -> Question:
    column = "context" if "context" in row.values else "question"
    text = row.values.get(column)
    if not isinstance(text, str):
        fix = 'give each line a "question" or "context", and "choices"'
        raise UserError(row.place, f"has no text {column!r}", fix)
    choices = tuple(_text(row, choice) for choice in _list(row))
    if len(choices) < 2:
        raise UserError(row.place, f"has {len(choices)} choices", "give at least two")
    return Question(row.place, text, choices, _answer(row, choices))


def _list(row: Row) -> list[Any]:
    """The choices, also where a table has them as JSON."""
    value = row.values.get("choices")
    if isinstance(value, str) and value.lstrip().startswith("["):
        where = f"{row.place}, column 'choices'"
        choices = parse_json(value, where, limits=RECORD, fix="fix the line")
        row = row._replace(values=row.values | {"choices": choices})
    return list_at(row, "choices", ",")


def _text(row: Row, choice: Any) -> str:
    if isinstance(choice, int | float) and not isinstance(choice, bool):
        return str(choice)
    if not isinstance(choice, str) or not choice:
        raise UserError(
            row.place, f"has a choice that is no text: {repr(choice)[:60]}", "fix the line"
        )
    return choice


def _answer(row: Row, choices: Sequence[str]) -> int | None:
    answer = row.values.get("answer")
    if answer is None or answer == "":
        return None
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, str) and NUMBER.fullmatch(answer):
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    fix = f"give its text, or its number from 0 to {len(choices) - 1}"
    raise UserError(
        row.place, f"has the answer {repr(answer)[:60]}, which is none of its choices", fix
    )
