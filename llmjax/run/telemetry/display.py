"""The display of a training run on stderr: a progress bar, or lines.

A run continues even if stderr cannot be written, as with a closed terminal or pipe.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from llmjax.metrics.names import (
    display_name,
    display_value,
    evaluation_task_metrics,
    headline_metric,
    is_cost,
    task_metrics,
    task_title,
)
from llmjax.run.telemetry.sinks import Record

# Metrics that a training line formats individually, or omits; all others follow by name.
FORMATTED = frozenset(
    "step time epoch tokens skipped loss bits_per_byte accuracy learning_rate gradient_norm "
    "tokens_per_second model_flops_per_second mfu data_wait_share device_memory_bytes "
    "goodput".split()
)


class Display(Protocol):
    """Shows records of metrics (`write`), progress (`advance`) and other lines (`say`)."""

    def write(self, record: Record) -> None: ...

    def advance(self, step: int, seconds_left: float | None) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


def make_display(
    kind: Literal["auto", "bar", "lines", "none"],
    step: int,
    steps: int,
    accounting: str,
    saved: Callable[[], Sequence[int]] = tuple,
) -> Display:
    """Makes a display and shows its first line.

    Args:
      kind: auto is a bar on a terminal, else lines.
      step: the current step.
      steps: the last step.
      accounting: the first line, which explains "model FLOP/s" and "MFU".
      saved: returns the steps of the complete checkpoints; only a bar calls it.
    """
    if kind == "auto":
        kind = "bar" if sys.stderr is not None and sys.stderr.isatty() else "lines"
    if kind == "none":
        return Silent()
    display: Display = Bar(step, steps, saved) if kind == "bar" else Lines(steps)
    display.say(accounting)
    return display


def to_stderr(text: str) -> None:
    """Prints a line to stderr, if it can be written."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            print(text, file=sys.stderr, flush=True)


class Silent:
    """Shows nothing."""

    def write(self, record: Record) -> None:
        pass

    def advance(self, step: int, seconds_left: float | None) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """A line for each record."""

    def __init__(self, steps: int):
        self._steps = steps
        self._left: float | None = None

    def write(self, record: Record) -> None:
        left = "" if self._left is None else f"  {duration(self._left)} left"
        self.say(f"step {record['step']}/{self._steps}  {describe(record)}{left}")

    def advance(self, step: int, seconds_left: float | None) -> None:
        self._left = seconds_left

    def say(self, text: str) -> None:
        to_stderr(text)

    def close(self) -> None:
        pass


class Bar:
    """A progress bar; under it the latest metrics, the validation results and the checkpoint."""

    def __init__(self, step: int, steps: int, saved: Callable[[], Sequence[int]]):
        from rich.console import Console
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        left = TextColumn("{task.fields[left]}")
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(None), TimeElapsedColumn(), left
        )
        self._task = self._bar.add_task("", total=steps, completed=step, left="compiling")
        self._metrics: list[str] = []
        self._validation = Validation()
        self._saved, self._status = saved, ""
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
        self._live.start()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        width = self._console.width
        status = [*self._validation.parts(), *([self._status] if self._status else [])]
        lines = [*wrapped(self._metrics, width), *wrapped(status, width)]
        return Group(self._bar, *map(Text, lines))

    def write(self, record: Record) -> None:
        if record["kind"] == "train":
            self._metrics = [*training_parts(record), *_amounts(record)]
            if steps := self._saved():
                self._status = f"saved step {steps[-1]}"
            return
        if record["kind"] == "eval":
            self._validation.add(record)
        self.say(f"step {record['step']}: {describe(record)}")

    def advance(self, step: int, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f"{duration(seconds_left)} left"
        self._bar.update(self._task, completed=step, left=left)

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._live.stop()


class Validation:
    """The last and the best validation result, by bits per byte, the first task metric or loss."""

    def __init__(self) -> None:
        self._last: tuple[int, str, float] | None = None
        self._best: tuple[int, str, float] | None = None

    def add(self, record: Record) -> None:
        """Adds an evaluation; one without a finite result changes nothing."""
        if (name := headline_metric(record)) is None:
            return
        sign = 1 if is_cost(name) else -1
        self._last = (record["step"], name, record[name])
        if self._best is None or sign * record[name] < sign * self._best[2]:
            self._best = self._last

    def parts(self) -> list[str]:
        """The last result, and the best one if that is another."""
        if self._last is None or self._best is None:
            return []
        parts = [f"validation {_result(*self._last)}"]
        return parts if self._best == self._last else [*parts, f"best {_result(*self._best)}"]


def _result(step: int, name: str, value: float) -> str:
    return f"{display_name(name)} {display_value(name, value)} at step {step}"


def wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Joins parts to lines of at most `width` columns, without splitting a shorter part."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


def describe(record: Record) -> str:
    """The metrics of a record with their units; n/a if unknown."""
    if record["kind"] == "eval":
        if tasks := task_metrics(record):
            return f"validation: {_of_tasks(record, tasks)}"
        return (
            f"validation: {_shown(record, 'loss', '{:.4f}')} nats/token  "
            f"{_quality(record, '{:.4f}', '{:.2%}')}"
        )
    if record["kind"] == "tasks":
        return "tasks: " + "  ".join(
            _with_error(record, name) for name in evaluation_task_metrics(record)
        )
    skipped = f"  {record['skipped']} skipped" if record.get("skipped") else ""
    return "  ".join(training_parts(record)) + skipped


def _with_error(record: Record, name: str) -> str:
    """A metric of evaluation.tasks with its standard error."""
    value, error = record[name], record[f"{name}_stderr"]
    text = "n/a" if value is None else display_value(name, value)
    if value is not None and error is not None:
        text += f" ± {display_value(name, error)}"
    return f"{task_title(name)} {text}"


def training_parts(record: Record) -> list[str]:
    """The metrics of a training record, one by one."""
    parts = (
        f"loss {_shown(record, 'loss', '{:.4f}')}",
        _quality(record, "{:.3f}", "{:.1%}"),
        f"lr {_shown(record, 'learning_rate', '{:.2e}')}",
        f"grad {_shown(record, 'gradient_norm', '{:.3g}')}",
        *_other_losses(record),
        f"{short_count(record.get('tokens_per_second'))} tok/s",
        f"{si(record.get('model_flops_per_second'))}FLOP/s",
        f"MFU {_shown(record, 'mfu', '{:.1%}')}",
        f"data wait {_shown(record, 'data_wait_share', '{:.1%}')}",
        f"memory {si(record.get('device_memory_bytes'))}B".replace("n/a B", "n/a"),
    )
    return list(filter(None, parts))


def _amounts(record: Record) -> list[str]:
    """How much of the data was read, and how many steps were skipped."""
    epoch, tokens, skipped = (record.get(name) for name in ("epoch", "tokens", "skipped"))
    parts = [f"{short_count(tokens)} tokens"] if tokens is not None else []
    parts += [f"epoch {epoch:.2f}"] if epoch is not None else []
    return [*parts, *([f"{skipped} skipped"] if skipped else [])]


def _of_tasks(record: Record, tasks: dict[str, list[str]]) -> str:
    """The metrics of a single task; of several tasks the first metric each, and the mean loss."""
    count = None if len(tasks) == 1 else 1
    names = [name for metrics in tasks.values() for name in metrics[:count]]
    if "loss" not in names:
        names.append("loss")
    parts = []
    for name in names:
        task, value = name.rpartition(".")[0], record.get(name)
        text = "n/a" if value is None else display_value(name, value)
        parts.append(f"{task} {display_name(name)} {text}".strip())
    return "  ".join(parts)


def _quality(record: Record, bits: str, share: str) -> str:
    """Bits per byte, or else the accuracy, or else nothing."""
    if record.get("bits_per_byte") is None and record.get("loss") is not None:
        has_accuracy = record.get("accuracy") is not None
        return f"accuracy {_shown(record, 'accuracy', share)}" if has_accuracy else ""
    return f"{_shown(record, 'bits_per_byte', bits)} bits/byte"


def _other_losses(record: Record) -> list[str]:
    """Any other metrics of the loss, such as a z-loss, by name."""
    return [
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in record.items()
        if name not in FORMATTED and isinstance(value, float)
    ]


def short_count(value: float | None) -> str:
    """A count in three digits: 12300 is "12.3k", 4.86e9 is "4.86B"."""
    if value is None:
        return "n/a"
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def si(value: float | None) -> str:
    """A number in three digits with its SI prefix: 12300 is "12.3 k"."""
    if value is None:
        return "n/a "
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _shown(record: Record, name: str, template: str) -> str:
    value: Any = record.get(name)
    return "n/a" if value is None else template.format(value)
