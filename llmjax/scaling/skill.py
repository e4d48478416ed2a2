"""Skill against bits: what models that compress better can do better.

The thesis that intelligence is compression, measured (as Huang et al. 2024, arXiv:2404.09937, did
for large models): bits per byte of texts against a skill that even tiny models have, to tell how a
text goes on from passages taken from elsewhere in it.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmjax.errors import UserError
from llmjax.evaluation.choose import ChooseOptions, Question, choose_among
from llmjax.inference.language_model import LanguageModel, load
from llmjax.run.folder import Run
from llmjax.storage.bounded import read_text

CHOICES = 4
"""Continuations to choose from: the true one, and others of the same text."""
TRIES = 1000
"""Passages drawn for a question at most, until three differ."""
BOOTSTRAPS = 2000
LARGEST = 64 << 20
"""Bytes of a text file."""


@dataclass(frozen=True)
class SkillOptions:
    """What is measured."""

    data: tuple[str, ...] = ()
    """Text files, UTF-8, that no model was trained on, as `llmjax evaluate --save-text` writes."""
    lengths: tuple[int, ...] = (16, 32, 64)
    """Characters of the continuations."""
    context: int = 200
    """Characters before them."""
    questions: int = 200
    """Questions of each length, shared out among the files."""
    max_bytes: int = 1 << 16
    """Bytes at the start of each file whose bits per byte are measured."""
    batch_size: int = 16
    """Rows per batch."""
    seed: int = 0
    """Of the choice of questions."""
    out: str = "skill.html"
    """The page; a table goes beside it, with the ending .csv."""


def skill_problems(options: SkillOptions) -> list[str]:
    """Returns all problems of the values, a line each that starts with the field."""
    checks = {
        "data: give at least one text file": bool(options.data),
        "lengths: must be at least 1, and different": bool(options.lengths)
        and min(options.lengths) > 0
        and len(set(options.lengths)) == len(options.lengths),
        "context: must be at least 1": options.context > 0,
        "questions: must be at least 1": options.questions > 0,
        "max_bytes: must be at least 1": options.max_bytes > 0,
        "batch_size: must be at least 1": options.batch_size > 0,
    }
    return [problem for problem, fine in checks.items() if not fine]


@dataclass(frozen=True)
class Text:
    """A file that models are measured on."""

    name: str
    content: str
    sha256: str


@dataclass(frozen=True)
class Measured:
    """A model's figures."""

    name: str
    step: int
    parameters: int
    bits: tuple[float, ...]
    """Bits per byte of each text."""
    accuracy: tuple[float, ...]
    """Of each length."""

    @property
    def mean_bits(self) -> float:
        """Over the texts."""
        return float(np.mean(self.bits))


@dataclass(frozen=True)
class Line:
    """How a skill follows the bits per byte, over models."""

    length: int
    slope: float
    intercept: float
    correlation: float
    """Pearson's r."""
    low: float
    high: float
    """Its 95 % bootstrap interval."""


@dataclass(frozen=True)
class Skill:
    """The result."""

    texts: tuple[Text, ...]
    lengths: tuple[int, ...]
    models: tuple[Measured, ...]
    lines: tuple[Line, ...]
    """Of each length; empty with fewer than 3 models."""


def read_texts(paths: Sequence[str]) -> list[Text]:
    """Reads the files.

    Raises:
      UserError: one cannot be read, is empty, or is named twice.
    """
    texts = []
    for path in paths:
        content = read_text(Path(path), LARGEST, fix="give a UTF-8 text file")
        if not content.strip():
            raise UserError(path, "is empty")
        digest = hashlib.sha256(content.encode()).hexdigest()
        texts.append(Text(Path(path).name, content, digest))
    if len({text.sha256 for text in texts}) < len(texts):
        raise UserError("data", "has a text twice", "give each once")
    return texts


def questions_of(text: Text, length: int, count: int, context: int, seed: int) -> list[Question]:
    """Draws questions: which of four passages follows? Passages begin with the space before a word,
    so that tokenizers do not join them with what stands before.

    Args:
      text: whose passages are drawn, with at least 8 words that begin one.
      length: characters of a passage.
      count: questions.
      context: characters before it.
      seed: with the text and the length it decides all.

    Raises:
      UserError: the text is too short.
    """
    last = len(text.content) - length
    starts = [found.start() for found in re.finditer(r" (?=\w)", text.content[:last])]
    later = [start for start in starts if start >= context]
    if len(later) < 8 or last < 8 * length:
        reason = f"has {len(text.content)} characters, too few for passages of {length}"
        raise UserError(text.name, reason, "give a longer text, or shorter --lengths")
    generator = np.random.default_rng([seed, length, int(text.sha256[:8], 16)])
    questions = []
    for number in range(count):
        at = int(generator.choice(later))
        true, others = text.content[at : at + length], list[str]()
        for _ in range(TRIES):
            other = int(generator.choice(starts))
            passage = text.content[other : other + length]
            if abs(other - at) >= length and passage not in (true, *others):
                others.append(passage)
            if len(others) == CHOICES - 1:
                break
        else:
            raise UserError(text.name, "repeats itself too much", "give another text")
        answer = int(generator.integers(CHOICES))
        choices = [*others[:answer], true, *others[answer:]]
        place = f"{text.name}, question {number + 1}"
        questions.append(Question(place, text.content[at - context : at], tuple(choices), answer))
    return questions


def named_models(names: Sequence[str]) -> list[tuple[str, int | None]]:
    """Splits RUN, RUN@STEP and RUN@all, which is all of a run's checkpoints.

    Raises:
      UserError: there is no such run, or it has no checkpoint.
    """
    found: list[tuple[str, int | None]] = []
    for name in names:
        run, at, step = name.rpartition("@")
        if not at or not (step == "all" or step.isdecimal()):
            found.append((name, None))
        elif step == "all":
            steps = Run.open(run).steps()
            if not steps:
                raise UserError(run, "has no checkpoint", "train it first")
            found += [(run, number) for number in steps]
        else:
            found.append((run, int(step)))
    return found


def measure(lm: LanguageModel, name: str, texts: Sequence[Text], options: SkillOptions) -> Measured:
    """Measures a model.

    Raises:
      UserError: it is no causal decoder, or its context is too short for a question.
    """
    bits = []
    for text in texts:
        start = text.content.encode()[: options.max_bytes].decode("utf-8", "ignore")
        bits.append(lm.score(start).bits_per_byte)
    asked = ChooseOptions(prompt="{}", delimiter="", batch_size=options.batch_size)
    accuracy = []
    for length in options.lengths:
        questions = [
            question
            for text in texts
            for question in questions_of(
                text, length, -(-options.questions // len(texts)), options.context, options.seed
            )
        ]
        result = choose_among(lm, questions, asked)
        assert result.measures is not None
        accuracy.append(result.measures.metrics[0].value)
    return Measured(name, lm.step, lm.model.num_params(), tuple(bits), tuple(accuracy))


def line_of(length: int, bits: np.ndarray, accuracy: np.ndarray, seed: int = 0) -> Line:
    """Fits accuracy = slope x bits per byte + intercept by least squares; Pearson's r with a
    bootstrap over models, of which there must be 3 that differ."""
    slope, intercept = np.polyfit(bits, accuracy, 1)
    generator = np.random.default_rng(seed)
    found: list[float] = []
    while len(found) < BOOTSTRAPS:
        sample = generator.integers(len(bits), size=len(bits))
        if np.ptp(bits[sample]) > 0 and np.ptp(accuracy[sample]) > 0:
            found.append(_pearson(bits[sample], accuracy[sample]))
    low, high = np.quantile(found, [0.025, 0.975])
    r = _pearson(bits, accuracy)
    return Line(length, float(slope), float(intercept), r, float(low), float(high))


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def skill(names: Sequence[str], options: SkillOptions) -> Skill:
    """Measures models and fits the lines.

    Args:
      names: RUN, RUN@STEP or RUN@all.
      options: what is measured.

    Raises:
      UserError: as `read_texts`, `named_models`, `measure` and `load`.
    """
    texts = read_texts(options.data)
    models = []
    for run, step in named_models(names):
        lm = load(run, step=step)
        shown = run if step is None else f"{run}@{step}"
        models.append(measure(lm, shown, texts, options))
    bits = np.array([model.mean_bits for model in models])
    lines = []
    for index, length in enumerate(options.lengths):
        accuracy = np.array([model.accuracy[index] for model in models])
        if len(models) > 2 and np.ptp(bits) > 0 and np.ptp(accuracy) > 0:
            lines.append(line_of(length, bits, accuracy))
    return Skill(tuple(texts), options.lengths, tuple(models), tuple(lines))
