"""The records of a run: metrics.jsonl, samples.jsonl and environment.json, parsed leniently."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.data.stages import Stage
from llmjax.reporting.format import count, show_controls
from llmjax.reporting.stages import mean_flops_per_token
from llmjax.run.config.schema import Config
from llmjax.storage.json_documents import json_lines

Line = dict[str, Any]

MAX_VALUES = 10_000
"""Maximum values per logged line; a run of a hundred tasks logs about a thousand."""


@dataclass(frozen=True)
class History:
    """The valid logged lines, in order of steps.

    Attributes:
      train: lines of kind "train".
      evals: lines of kind "eval".
      tasks: lines of kind "tasks", of evaluation.tasks.
      roll_backs: (step, batches left out there) of each roll back after a loss spike, in order.
      samples: lines of samples.jsonl with a step, a prompt and a text.
      unreadable: number of lines of either file that are not a JSON object with a step, such as a
        line cut short when a process was killed.
      repeats: how often the run resumed from an earlier step.
      times: times of the lines in Unix seconds, including superseded lines.
    """

    train: Sequence[Line]
    evals: Sequence[Line]
    tasks: Sequence[Line]
    roll_backs: Sequence[tuple[int, int]]
    samples: Sequence[Line]
    unreadable: int
    repeats: int
    times: Sequence[float]


def read_history(folder: Path) -> History:
    """Reads the files of a run folder; a missing file counts as empty.

    A stopped run resumes from its last checkpoint and logs some steps again. The later line
    counts; everything that the earlier attempt logged from that step on is dropped.
    """
    lines, bad = _read(folder / "metrics.jsonl")
    samples, bad_samples = _read(folder / "samples.jsonl")
    train = [line for line in lines if line.get("kind") == "train"]
    evals, tasks = (
        [line for line in lines if line.get("kind") == kind] for kind in ("eval", "tasks")
    )
    kept, repeats = _drop_superseded(train)
    return History(
        train=kept,
        evals=_last_of_each_step(evals),
        tasks=_last_of_each_step(tasks),
        roll_backs=[
            (int(line["step"]), int(batches))
            for line in lines
            if line.get("kind") == "roll_back"
            and (batches := finite_number(line, "batches")) is not None
        ],
        samples=[line for line in samples if isinstance(line.get("text"), str)],
        unreadable=bad + bad_samples,
        repeats=repeats,
        times=[t for t in (number(line, "time") for line in lines) if math.isfinite(t)],
    )


def main_metric(lines: Sequence[Line]) -> str:
    """Returns "bits_per_byte", or "loss" for objectives without bits per byte."""
    has_bits = any(math.isfinite(number(line, "bits_per_byte")) for line in lines)
    null_bits = any(
        line.get("bits_per_byte", "") is None and math.isfinite(number(line, "loss"))
        for line in lines
    )
    has_accuracy = any(math.isfinite(number(line, "accuracy")) for line in lines)
    return "loss" if (has_accuracy or null_bits) and not has_bits else "bits_per_byte"


def is_finished(config: Config, history: History) -> bool:
    """Whether the logged steps reach the end of the run; the last epoch may end within a step."""
    if not history.train:
        return False
    step, epochs = history.train[-1]["step"], last(history.train, "epoch")
    if config.epochs is None:
        return bool(step >= config.steps)
    return epochs is not None and step > 0 and epochs * (1 + 1 / step) >= config.epochs * 0.999


def number(record: Mapping[str, Any], key: str) -> float:
    """Returns the number at a key; NaN if it is missing, null, too large or not a number."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return math.nan
    return float(value)


def finite_number(record: Mapping[str, Any], key: str) -> float | None:
    """Returns the finite number at a key, or None."""
    value = number(record, key)
    return value if math.isfinite(value) else None


def section(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Returns the object at a key; an empty one if there is none."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """Returns the value if it is a list, else an empty list."""
    return value if isinstance(value, list) else []


def column(lines: Sequence[Line], key: str) -> list[tuple[float, float]]:
    """Returns (step, value) of each line with the key; NaN if the value is not a number."""
    return [(float(line["step"]), number(line, key)) for line in lines if key in line]


def last(lines: Sequence[Line], key: str) -> float | None:
    """Returns the last finite value of a column, or None."""
    values = (number(line, key) for line in reversed(lines))
    return next((value for value in values if math.isfinite(value)), None)


def _read(path: Path) -> tuple[list[Line], int]:
    """Returns the objects with a step in a JSONL file, and the number of other lines."""
    if not path.is_file():
        return [], 0
    lines: list[Line] = []
    invalid = 0
    for _, line in json_lines(path):
        is_object = isinstance(line, dict) and len(line) <= MAX_VALUES
        if is_object and 0 <= number(line, "step") < 1e15:
            # Drop lists and objects to save memory: no run logs any.
            lines.append({k: v for k, v in line.items() if not isinstance(v, list | dict)})
        else:
            invalid += 1
    return lines, invalid


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
    """Keeps the last evaluation of each step: any may have been repeated."""
    return [line for _, line in sorted({line["step"]: line for line in lines}.items())]


def sessions(environment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the recorded starts of a run, oldest first."""
    recorded = items(environment.get("sessions"))
    return [session for session in recorded if isinstance(session, Mapping)]


def latest_session(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the latest start; empty if none is recorded."""
    return (sessions(environment) or [{}])[-1]


def flops_per_token(
    history: History, environment: Mapping[str, Any], stages: Sequence[Stage] = ()
) -> float | None:
    """Returns the recorded FLOPs per token, on average over `stages`; or the ratio of two logged
    columns."""
    model = section(environment, "model")
    by_stage = [value for value in items(model.get("flops_by_stage")) if isinstance(value, float)]
    if by_stage and len(by_stage) == len(stages) and history.train:
        return mean_flops_per_token(stages, by_stage, history.train[-1]["step"])
    recorded = finite_number(model, "flops_per_token")
    if recorded is not None:
        return recorded
    flops, tokens = (
        last(history.train, f"{name}_per_second") for name in ("model_flops", "tokens")
    )
    return flops / tokens if flops and tokens else None


def wall_seconds(history: History, environment: Mapping[str, Any]) -> float | None:
    """Returns the running time: for each recorded start, the time until its last line.

    Without recorded starts, the time from the first line to the last.
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
    """Describes the devices of the latest start; empty if unknown."""
    session = latest_session(environment)
    used = section(session, "devices")
    cores = finite_number(section(session, "machine"), "cores")
    number = finite_number(used, "count")
    if used.get("platform") == "cpu" and cores:
        return f"{count(cores)} CPU core{'' if cores == 1 else 's'}"
    return f"{count(number)} {used.get('kind', 'device')}" if number is not None else ""


MAX_SAMPLE_STEPS = 8
"""Steps to show samples of: the first, the last, and some in between, geometrically spaced."""
MAX_SAMPLE_CHARACTERS = 2000
"""Characters to show per sample."""
MAX_SAMPLES = 8
"""Samples to show per step."""


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
    """Groups samples by step, the latest step first.

    Args:
      lines: lines of samples.jsonl ("step", "prompt", "text"); the text may start with the prompt.
    """
    by_step: dict[int, list[Sample]] = {}
    for line in lines:
        sample = _sample(str(line.get("prompt", "")), line["text"])
        by_step.setdefault(line["step"], []).append(sample)
    steps = reversed(_thin_steps(sorted(by_step)))
    return [SampleGroup(count(step), by_step[step][:MAX_SAMPLES]) for step in steps]


def _thin_steps(steps: Sequence[int]) -> list[int]:
    """Selects at most MAX_SAMPLE_STEPS steps, at geometrically growing indices."""
    if len(steps) <= MAX_SAMPLE_STEPS:
        return list(steps)
    ratio = (len(steps) - 1) ** (1 / (MAX_SAMPLE_STEPS - 2))
    indices = {0, *(round(ratio**n) for n in range(MAX_SAMPLE_STEPS - 1))}
    return [steps[index] for index in sorted(indices)]


def _sample(prompt: str, text: str) -> Sample:
    prompt, text = show_controls(prompt), show_controls(text.removeprefix(prompt))
    return Sample(
        prompt, text if len(text) <= MAX_SAMPLE_CHARACTERS else text[:MAX_SAMPLE_CHARACTERS] + " …"
    )
