"""What a run wrote down as it went: metrics.jsonl and samples.jsonl, read with forbearance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.storage.json_documents import json_lines

Line = dict[str, Any]

MOST_FIGURES = 10_000
"""Values of a logged line; one of a hundred tasks has about a thousand."""


@dataclass(frozen=True)
class History:
    """The logged lines that hold, by rising step.

    Attributes:
      train: lines of kind "train".
      evals: lines of kind "eval".
      samples: lines of samples.jsonl with a step, a prompt and a text.
      unreadable: lines of either file that are no JSON object with a step, such as one that a
        killed process left half-written.
      repeats: how often the run went back to an earlier step.
      times: when the lines were written, in Unix seconds, those that fell away included.
    """

    train: Sequence[Line]
    evals: Sequence[Line]
    samples: Sequence[Line]
    unreadable: int
    repeats: int
    times: Sequence[float]


def read_history(folder: Path) -> History:
    """Reads the files of a run folder; a missing one counts as empty.

    A run that stopped goes on from its last checkpoint and logs some steps again. The later line
    holds, and with it everything that the earlier attempt logged from that step on falls away.
    """
    lines, bad = _read(folder / "metrics.jsonl")
    samples, bad_samples = _read(folder / "samples.jsonl")
    train = [line for line in lines if line.get("kind") == "train"]
    evals = [line for line in lines if line.get("kind") == "eval"]
    kept, repeats = _later_holds(train)
    return History(
        train=kept,
        evals=_last_of_each_step(evals),
        samples=[line for line in samples if isinstance(line.get("text"), str)],
        unreadable=bad + bad_samples,
        repeats=repeats,
        times=[t for t in (number(line, "time") for line in lines) if math.isfinite(t)],
    )


def split_evals(evals: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """The evaluations of as much text as the last one that succeeded, and the other ones.

    While training, a run may score a part of the held-out text (evaluation.max_tokens). Figures of
    different texts cannot be compared.
    """
    finite = [line for line in evals if math.isfinite(number(line, quality(evals)))]
    size = finite[-1].get("heldout_bytes") if finite else None
    like = [line for line in evals if line.get("heldout_bytes") == size]
    return like, [line for line in evals if line.get("heldout_bytes") != size]


def quality(lines: Sequence[Line]) -> str:
    """The figure that counts: bits per byte, or the loss of objectives that know no such thing."""
    known = any(math.isfinite(number(line, "bits_per_byte")) for line in lines)
    unpriced = any(
        line.get("bits_per_byte", "") is None and math.isfinite(number(line, "loss"))
        for line in lines
    )
    drawn = any(math.isfinite(number(line, "accuracy")) for line in lines)
    return "loss" if (drawn or unpriced) and not known else "bits_per_byte"


def number(line: Mapping[str, Any], key: str) -> float:
    """A finite number of a line, or NaN where it is missing, null or something else."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return math.nan
    return float(value)


def column(lines: Sequence[Line], key: str) -> list[tuple[float, float]]:
    """(step, value) of each line that has the key; NaN where the value is no number."""
    return [(float(line["step"]), number(line, key)) for line in lines if key in line]


def last(lines: Sequence[Line], key: str) -> float | None:
    """The latest finite value of a column."""
    found = (number(line, key) for line in reversed(lines))
    return next((value for value in found if math.isfinite(value)), None)


def _read(path: Path) -> tuple[list[Line], int]:
    """The objects with a step of a JSONL file, and how many lines are something else."""
    if not path.is_file():
        return [], 0
    good: list[Line] = []
    bad = 0
    for _, line in json_lines(path):
        fits = isinstance(line, dict) and len(line) <= MOST_FIGURES
        if fits and 0 <= number(line, "step") < 1e15:
            # Lists and objects, which no run logs, would only take memory.
            good.append({k: v for k, v in line.items() if not isinstance(v, list | dict)})
        else:
            bad += 1
    return good, bad


def _later_holds(lines: Sequence[Line]) -> tuple[list[Line], int]:
    kept: list[Line] = []
    repeats = 0
    for line in lines:
        if kept and line["step"] <= kept[-1]["step"]:
            repeats += 1
            while kept and kept[-1]["step"] >= line["step"]:
                kept.pop()
        kept.append(line)
    return kept, repeats


def _last_of_each_step(lines: Sequence[Line]) -> list[Line]:
    """Evaluations may be done again, at any step: the last one of each step holds."""
    return [line for _, line in sorted({line["step"]: line for line in lines}.items())]
