"""Reporting of metrics and samples, by process 0 alone; and the profiler trace."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from llmjax.parallel.mesh import axis_sizes
from llmjax.run import environment
from llmjax.run.config.build import plain
from llmjax.run.folder import Run
from llmjax.run.telemetry.display import Display, Silent, make_display, short_count, si, to_stderr
from llmjax.run.telemetry.sinks import JsonLines, Sink, TensorBoard, WeightsAndBiases
from llmjax.run.telemetry.throughput import peak_flops
from llmjax.state import split
from llmjax.training.session import Session


class Reporter:
    """Writes metrics and samples to files, trackers and the display. Close it."""

    def __init__(self, session: Session, step: int):
        """Opens the logs; records beyond `step` are removed.

        Raises:
          UserError: a file cannot be written, or a tracker is configured and not installed.
        """
        self._sinks: list[Sink] = []
        self._samples: JsonLines | None = None
        self._run: Run | None = None
        self.display: Display = Silent()
        if not session.is_primary:
            return
        self._run = run = session.run
        log = session.config.log
        if log.wandb is not None:
            self._sinks.append(WeightsAndBiases(log.wandb, run.folder, plain(session.config)))
        if log.tensorboard:
            self._sinks.append(TensorBoard(run.tensorboard, step))
        self._sinks.append(JsonLines(run.metrics_file, step))
        self._samples = JsonLines(run.samples, step)
        environment.record(run.folder / "environment.json", **_counts(session))
        self.display = make_display(log.display, step, session.steps, _headline(session), run.steps)

    def write(self, kind: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes a record of metrics; values that are not finite, which JSON lacks, as None.

        Args:
          kind: train or eval.
          step: steps taken so far.
          metrics: values by name.
        """
        self.display.write(self._record(kind, step, metrics))

    def _record(self, kind: str, step: int, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        finite = {name: None if _not_finite(value) else value for name, value in metrics.items()}
        record = {"step": step, "kind": kind, "time": time.time(), **finite}
        for sink in self._sinks:
            sink.write(record)
        return record

    def roll_back(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Removes the records beyond a step, and writes one of kind "roll_back" at it."""
        for sink in (*self._sinks, *([self._samples] if self._samples is not None else [])):
            sink.rewind(step)
        self._record("roll_back", step, metrics)

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Writes a text that the model generated after a prompt."""
        if self._samples is not None:
            self._samples.write({"step": step, "time": time.time(), "prompt": prompt, "text": text})
        self.display.say(f"sample at step {step}: {prompt}{text}")

    def announce(self, text: str) -> None:
        """Shows a line even if the display is off, such as the receipt of a signal."""
        (to_stderr if isinstance(self.display, Silent) else self.display.say)(text)

    def details(self, step: int, details: Mapping[str, Any]) -> None:
        """Stores the details of each task's evaluation in place of the task's earlier ones."""
        if self._run is not None and details:
            source = {"run": self._run.address, "step": step}
            self._run.keep_measures({task: source | value for task, value in details.items()})

    def close(self) -> None:
        """Closes the logs and the display."""
        self.display.close()
        for sink in self._sinks:
            sink.close()
        if self._samples is not None:
            self._samples.close()


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _counts(session: Session) -> dict[str, dict[str, Any]]:
    return {
        "model": {
            "parameters": session.network.num_params(),
            "learning": trainable_count(session),
            "vocab_size": session.model.config.vocab_size,
            "flops_per_token": session.flops_per_token(0),
            **({"flops_by_stage": session.flops_by_stage} if session.config.data.stages else {}),
        },
        "data": session.workload.data_summary(),
    }


def trainable_count(session: Session) -> int:
    """The number of trained parameters."""
    shapes = split(session.network.abstract_params(), session.trainable)[0]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _headline(session: Session) -> str:
    """The run in a line: model, data, devices; and how FLOP/s and MFU are counted."""
    mesh = " x ".join(
        f"{axis} {size}" for axis, size in axis_sizes(session.mesh).items() if size > 1
    )
    device = jax.devices()[0]
    peak = peak_flops()
    count, trained = session.network.num_params(), trainable_count(session)
    share = "" if trained == count else f" of which {trained:,} are trained ({trained / count:.2%})"
    name = device.device_kind if device.platform != "cpu" else "CPU"
    devices = f"{jax.device_count()} {name} device{'s' if jax.device_count() > 1 else ''}"
    devices += f" ({mesh})" if mesh else ""
    mfu = "MFU n/a (unknown peak)" if peak is None else f"MFU of {si(peak)}FLOP/s, dense bf16"
    return (
        f"{session.run.address}: {short_count(count)} parameters{share}, "
        f"{session.workload.headline()}, {devices}\n"
        f"{_flops_text(session)} per token, PaLM's accounting; {mfu}"
    )


def _flops_text(session: Session) -> str:
    """FLOP per token, of each stage."""
    first, *later = zip(session.stages, session.flops_by_stage, strict=True)
    changes = [f", {si(flops)}FLOP from step {stage.first_step}" for stage, flops in later]
    return f"{si(first[1])}FLOP{''.join(changes)}"


WARMUP = 5  # steps before the trace, which should not show compilation


class Profile:
    """Profiles steps of process 0, from the sixth step of this session on."""

    def __init__(self, folder: Path, steps: int):
        self._folder = folder
        self._steps = steps if jax.process_index() == 0 else 0
        self._running = False
        self._begun = 0

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def before_step(self, wait: Callable[[], object]) -> None:
        """Starts or stops the trace, if this is the step to do so.

        Args:
          wait: blocks until the devices are idle.
        """
        step, self._begun = self._begun, self._begun + 1
        if self._steps and step == WARMUP:
            wait()
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._running and step == WARMUP + self._steps:
            wait()
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
