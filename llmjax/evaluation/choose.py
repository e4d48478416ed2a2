"""The command `choose`: zero-shot multiple choice by likelihood.

Each choice is scored by the log-likelihood of its tokens after the question's. Question and choice
are encoded together and split after as many tokens as the question alone has, as in EleutherAI's
lm-evaluation-harness, so that results are comparable. `accuracy` takes the most likely choice (acc
there), `accuracy_per_byte` the one of highest log-likelihood per UTF-8 byte (acc_bytes, and
acc_norm for ASCII texts).
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
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
      place: file and line, for messages.
      text: the question, or context.
      choices: texts, at least two.
      answer: index of the correct choice; None if unknown.
    """

    place: str
    text: str
    choices: tuple[str, ...]
    answer: int | None


@dataclass(frozen=True)
class ScoredQuestion:
    """A question with the likelihoods of its choices.

    Attributes:
      number: of the question, from 1.
      question: the question.
      log_likelihoods: of each choice, in nats.
      greedy: whether greedy decoding would generate each choice.
    """

    number: int
    question: Question
    log_likelihoods: tuple[float, ...]
    greedy: tuple[bool, ...]

    @property
    def choice(self) -> int:
        """The most likely choice."""
        return int(np.argmax(self.log_likelihoods))

    @property
    def choice_per_byte(self) -> int:
        """The choice of highest log-likelihood per byte."""
        sizes = [len(choice.encode()) for choice in self.question.choices]
        return int(np.argmax(np.divide(self.log_likelihoods, sizes)))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, for JSON; probabilities are normalized over the choices."""
        weights = np.exp(np.subtract(self.log_likelihoods, max(self.log_likelihoods)))
        choices = self.question.choices
        return {
            "question": self.number,
            "choice": self.choice,
            "choice_per_byte": self.choice_per_byte,
            "text": choices[self.choice],
            "answer": self.question.answer,
            "log_likelihoods": list(self.log_likelihoods),
            "probabilities": (weights / weights.sum()).tolist(),
            "greedy": list(self.greedy),
        }


@dataclass(frozen=True)
class Choices:
    """The result of a file of questions; print it for a table.

    Attributes:
      run: the run folder.
      step: of the checkpoint.
      data: the file.
      questions: number of questions.
      measures: accuracy and accuracy_per_byte with 95 % bootstrap intervals, over the questions
        with a known answer; None without any.
      chance: the accuracy of guessing on these; None without any.
      seconds: wall-clock time of encoding, compiling and scoring.
    """

    run: str
    step: int
    data: str
    questions: int
    measures: Metrics | None
    chance: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, for JSON."""
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
        rows = {"questions": f"{self.questions:,}, {answered:,} with an answer"}
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
    """JSONL files (also CSV, TSV, Parquet, compressed): one {"question": ..., "choices": [...],
    "answer": index from 0, or text; may be missing} per line; "context" may replace "question"."""
    prompt: str = "{}"
    """The prompt before a choice; {} stands for the question."""
    delimiter: str = " "
    """Text between prompt and choice."""
    limit: int | None = None
    """Number of questions, from the first; none: all."""
    batch_size: int = 16
    """Rows per batch."""


@keyword_options("data")
def choose(
    run: str | PathLike[str] | LanguageModel,
    options: ChooseOptions,
    *,
    each: Callable[[ScoredQuestion], object] | None = None,
) -> Choices:
    """Answer the multiple-choice questions of files.

    Args:
      run: a run folder, or a loaded model.
      options: fields of ChooseOptions, also as keywords.
      each: called with every question, in order, as soon as its choices are scored.

    Raises:
      UserError: no such run, step or file; a question that cannot be read (names its line); a
        choice without tokens or longer than the context; a model without decoder.
    """
    return choose_among(loaded(run, options), read_questions(options), options, each=each)


def read_questions(options: ChooseOptions) -> list[Question]:
    """Read the questions of the options' files.

    Raises:
      UserError: no such file; a question that cannot be read (names its line); an option that has
        no meaning.
    """
    if "{}" not in options.prompt:
        reason = "has no placeholder for the question"
        raise UserError(f"prompt {options.prompt!r}", reason, "add {}")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"limit {options.limit}", "is not positive")
    rows = read_table(FileTable(paths=tuple(map(str, options.data))))
    return [read_question(row) for row in islice(rows, options.limit)]


def choose_among(
    lm: LanguageModel,
    questions: Sequence[Question],
    options: ChooseOptions,
    *,
    each: Callable[[ScoredQuestion], object] | None = None,
) -> Choices:
    """Answer questions that have been read; see `choose`."""
    start = time.perf_counter()
    correct = list[tuple[bool, bool]]()
    for scored in score_questions(lm, questions, options):
        if each is not None:
            each(scored)
        answer = scored.question.answer
        if answer is not None:
            correct.append((scored.choice == answer, scored.choice_per_byte == answer))
    chances = [1 / len(q.choices) for q in questions if q.answer is not None]
    return Choices(
        run=lm.config.run_dir,
        step=lm.step,
        data=", ".join(map(str, options.data)),
        questions=len(questions),
        measures=_measures(correct),
        chance=math.fsum(chances) / len(chances) if chances else None,
        seconds=time.perf_counter() - start,
    )


def score_questions(
    lm: LanguageModel, questions: Sequence[Question], options: ChooseOptions
) -> Iterator[ScoredQuestion]:
    """Score the choices of each question, in order, batch by batch; see `choose`."""
    likelihoods = score_continuations(
        lm.model,
        lm.params,
        question_pairs(lm, questions, options),
        bos_id=lm.tokenizer.bos_id,
        batch_size=options.batch_size,
        mesh=lm.mesh,
    )
    for number, question in enumerate(questions, 1):
        totals, greedy = zip(*islice(likelihoods, len(question.choices)), strict=True)
        yield ScoredQuestion(number, question, totals, greedy)


def question_pairs(
    lm: LanguageModel, questions: Sequence[Question], options: ChooseOptions
) -> list[Pair]:
    """Encode every choice of every question after the options' prompt; see `pairs_of`."""
    texts = [options.prompt.replace("{}", question.text) for question in questions]
    return pairs_of(lm, questions, texts, options.delimiter)


def _measures(correct: Sequence[tuple[bool, bool]]) -> Metrics | None:
    if not correct:
        return None
    by_sum, by_byte = np.array(correct, float).T
    metrics = means({"accuracy": by_sum, "accuracy_per_byte": by_byte})
    return Metrics(tuple(metrics), len(correct))


def pairs_of(
    lm: LanguageModel, questions: Sequence[Question], texts: Sequence[str], delimiter: str
) -> list[Pair]:
    """Encode every choice of every question as (tokens before it, its tokens)."""
    tokenizer, limit = lm.tokenizer, lm.model.config.max_length
    prefixes, continuations = list[str](), list[str]()
    for question, text in zip(questions, texts, strict=True):
        # Trailing spaces belong to the next word: tokens start with them.
        prefix = text.rstrip()
        space = text[len(prefix) :]
        prefixes += [prefix] * len(question.choices)
        continuations += [space + delimiter + choice for choice in question.choices]
    encoded = tokenizer.encode_batch(prefixes)
    pairs: list[Pair]
    if lm.model.config.is_encoder_decoder:
        answers = tokenizer.encode_batch(continuations)
        pairs = [(tokenizer.wrap(a)[0], b) for a, b in zip(encoded, answers, strict=True)]
    else:
        texts = [a + b for a, b in zip(prefixes, continuations, strict=True)]
        joint = tokenizer.encode_batch(texts)
        pairs = [
            ([*tokenizer.prefix, *ids] or [tokenizer.bos_id], all_ids[len(ids) :])
            for ids, all_ids in zip(encoded, joint, strict=True)
        ]
    places = (f"{q.place}, choice {n}" for q in questions for n in range(len(q.choices)))
    for place, (_, choice_ids) in zip(places, pairs, strict=True):
        if not choice_ids:
            raise UserError(place, "adds no token to its question", "fix the choice")
        size = len(choice_ids)
        if size > limit:
            raise UserError(place, f"has {size} tokens, the model's context is {limit}")
    return pairs


def read_question(row: Row) -> Question:
    """Read a question from a table row; raises UserError."""
    column = "context" if "context" in row.values else "question"
    text = row.values.get(column)
    if not isinstance(text, str):
        fix = 'give each line a "question" or "context", and "choices"'
        raise UserError(row.place, f"has no text {column!r}", fix)
    choices = tuple(_text(row, choice) for choice in _choices(row))
    if len(choices) < 2:
        raise UserError(row.place, f"has {len(choices)} choices", "give at least two")
    return Question(row.place, text, choices, _answer(row, choices))


def _choices(row: Row) -> list[Any]:
    """Return the choices: a list, JSON of one, or comma-separated text."""
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
            row.place, f"has a choice that is not text: {repr(choice)[:60]}", "fix the line"
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
    fix = f"give its text, or its index from 0 to {len(choices) - 1}"
    raise UserError(
        row.place, f"has the answer {repr(answer)[:60]}, which is not one of its choices", fix
    )
