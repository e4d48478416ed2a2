"""What a run recorded: metrics.jsonl, samples.jsonl and environment.json, read leniently."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.reporting.format import count, show_controls
from llmjax.storage.json_documents import json_lines

Line = dict[str, Any]

MAX_VALUES = 10_000
"""Values of a logged line; one of a hundred tasks has about a thousand."""


@dataclass(frozen=True)
class History:
    """The valid logged lines, by rising step.

    Attributes:
      train: lines of kind "train".
      evals: lines of kind "eval".
      samples: lines of samples.jsonl with a step, a prompt and a text.
      unreadable: lines of either file that are not a JSON object with a step, such as one that a
        killed process left half-written.
      repeats: how often the run went back to an earlier step.
      times: when the lines were written, in Unix seconds, superseded ones included.
    """

    train: Sequence[Line]
    evals: Sequence[Line]
    samples: Sequence[Line]
    unreadable: int
    repeats: int
    times: Sequence[float]


def read_history(folder: Path) -> History:
    """Reads the files of a run folder; a missing one counts as empty.

    A stopped run resumes from its last checkpoint and logs some steps again. The later line
    counts, and everything that the earlier attempt logged from that step on is dropped.
    """
    lines, bad = _read(folder / "metrics.jsonl")
    samples, bad_samples = _read(folder / "samples.jsonl")
    train = [line for line in lines if line.get("kind") == "train"]
    evals = [line for line in lines if line.get("kind") == "eval"]
    kept, repeats = _drop_superseded(train)
    return History(
        train=kept,
        evals=_last_of_each_step(evals),
        samples=[line for line in samples if isinstance(line.get("text"), str)],
        unreadable=bad + bad_samples,
        repeats=repeats,
        times=[t for t in (number(line, "time") for line in lines) if math.isfinite(t)],
    )


def split_evals(evals: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """The evaluations of as much text as the last successful one, and the other ones.

    While training, a run may score a part of the validation text (evaluation.max_tokens). Results
    on different texts cannot be compared.
    """
    finite = [line for line in evals if math.isfinite(number(line, quality(evals)))]
    size = finite[-1].get("heldout_bytes") if finite else None
    same = [line for line in evals if line.get("heldout_bytes") == size]
    return same, [line for line in evals if line.get("heldout_bytes") != size]


def quality(lines: Sequence[Line]) -> str:
    """The main metric: bits per byte, or the loss of objectives without bits per byte."""
    has_bits = any(math.isfinite(number(line, "bits_per_byte")) for line in lines)
    null_bits = any(
        line.get("bits_per_byte", "") is None and math.isfinite(number(line, "loss"))
        for line in lines
    )
    has_accuracy = any(math.isfinite(number(line, "accuracy")) for line in lines)
    return "loss" if (has_accuracy or null_bits) and not has_bits else "bits_per_byte"


def number(record: Mapping[str, Any], key: str) -> float:
    """The number under a key, or NaN where it is missing, null, too large or something else."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return math.nan
    return float(value)


def finite_number(record: Mapping[str, Any], key: str) -> float | None:
    """The finite number under a key, if there is one."""
    value = number(record, key)
    return value if math.isfinite(value) else None


def section(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key; an empty one where there is something else."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """The list that a value is; an empty one of anything else."""
    return value if isinstance(value, list) else []


def column(lines: Sequence[Line], key: str) -> list[tuple[float, float]]:
    """(step, value) of each line that has the key; NaN where the value is not a number."""
    return [(float(line["step"]), number(line, key)) for line in lines if key in line]


def last(lines: Sequence[Line], key: str) -> float | None:
    """The latest finite value of a column."""
    values = (number(line, key) for line in reversed(lines))
    return next((value for value in values if math.isfinite(value)), None)


def _read(path: Path) -> tuple[list[Line], int]:
    """The objects with a step of a JSONL file, and the number of other lines."""
    if not path.is_file():
        return [], 0
    good: list[Line] = []
    bad = 0
    for _, line in json_lines(path):
        fits = isinstance(line, dict) and len(line) <= MAX_VALUES
        if fits and 0 <= number(line, "step") < 1e15:
            # Lists and objects, which no run logs, would only take memory.
            good.append({k: v for k, v in line.items() if not isinstance(v, list | dict)})
        else:
            bad += 1
    return good, bad


def _drop_superseded(lines: Sequence[Line]) -> tuple[list[Line], int]:
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
    """Evaluations may be repeated, at any step: the last one of each step counts."""
    return [line for _, line in sorted({line["step"]: line for line in lines}.items())]


def sessions(environment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The recorded starts of a run, oldest first."""
    return [each for each in items(environment.get("sessions")) if isinstance(each, Mapping)]


def latest_session(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """The latest start; empty where none is recorded."""
    return (sessions(environment) or [{}])[-1]


def flops_per_token(history: History, environment: Mapping[str, Any]) -> float | None:
    """As recorded, or as the ratio of two logged columns."""
    recorded = finite_number(section(environment, "model"), "flops_per_token")
    if recorded is not None:
        return recorded
    flops, tokens = (
        last(history.train, f"{what}_per_second") for what in ("model_flops", "tokens")
    )
    return flops / tokens if flops and tokens else None


def wall_seconds(history: History, environment: Mapping[str, Any]) -> float | None:
    """Time that the run worked: for each start, from when it was recorded to its last line.

    Without recorded starts, from the first line to the last one.
    """
    times = sorted(history.times)
    if not times:
        return None
    recorded = (finite_number(session, "started") for session in sessions(environment))
    starts = sorted(start for start in recorded if start)
    if not starts or starts[0] > times[0]:
        starts = [times[0], *starts]
    ends = [*starts[1:], math.inf]
    latest = [times[bisect_left(times, end) - 1] for end in ends]
    return sum(max(0.0, line - start) for start, line in zip(starts, latest, strict=True))


def devices(environment: Mapping[str, Any]) -> str:
    """What the latest start ran on, in a few words; empty if that is not known."""
    session = latest_session(environment)
    where = section(session, "devices")
    cores = finite_number(section(session, "machine"), "cores")
    number = finite_number(where, "count")
    if where.get("platform") == "cpu" and cores:
        return f"{count(cores)} CPU core{'' if cores == 1 else 's'}"
    return f"{count(number)} {where.get('kind', 'device')}" if number is not None else ""


MAX_SAMPLE_STEPS = 8
"""Steps whose samples are shown: the first, the last, and some between, ever further apart."""
MAX_SAMPLE_CHARACTERS = 2000
"""Characters shown of one sample."""
MAX_SAMPLES = 8
"""Samples shown of one step."""


@dataclass(frozen=True)
class Sample:
    """A prompt and its continuation."""

    prompt: str
    text: str


@dataclass(frozen=True)
class SampleGroup:
    """The samples of one step."""

    step: str
    samples: Sequence[Sample]


def sample_groups(lines: Sequence[Line]) -> list[SampleGroup]:
    """Samples by step, the latest step first.

    Args:
      lines: of samples.jsonl: "step", "prompt", "text"; the text may begin with its prompt.
    """
    by_step: dict[int, list[Sample]] = {}
    for line in lines:
        sample = _sample(str(line.get("prompt", "")), line["text"])
        by_step.setdefault(line["step"], []).append(sample)
    steps = reversed(_thin_steps(sorted(by_step)))
    return [SampleGroup(count(step), by_step[step][:MAX_SAMPLES]) for step in steps]


def _thin_steps(steps: Sequence[int]) -> list[int]:
    """At most MAX_SAMPLE_STEPS of them, their indices growing geometrically."""
    if len(steps) <= MAX_SAMPLE_STEPS:
        return list(steps)
    ratio = (len(steps) - 1) ** (1 / (MAX_SAMPLE_STEPS - 2))
    places = {0, *(round(ratio**n) for n in range(MAX_SAMPLE_STEPS - 1))}
    return [steps[place] for place in sorted(places)]


def _sample(prompt: str, text: str) -> Sample:
    prompt, text = show_controls(prompt), show_controls(text.removeprefix(prompt))
    return Sample(
        prompt, text if len(text) <= MAX_SAMPLE_CHARACTERS else text[:MAX_SAMPLE_CHARACTERS] + " …"
    )
