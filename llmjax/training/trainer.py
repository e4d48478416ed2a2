"""The training loop: batches in, steps out. Metrics are read one step late: no device waits."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax

from llmjax.data.loader import Loader
from llmjax.decoding.completions import stream_completions
from llmjax.errors import Stopped, UserError
from llmjax.interruption import Interrupted, stoppable
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.run.telemetry.hardware import memory_bytes, peak_flops
from llmjax.run.telemetry.throughput import Throughput
from llmjax.state import TrainState, Tree, join
from llmjax.step import LossFunction, Step, StepMetrics, make_train_step
from llmjax.tasks.task import body
from llmjax.training.reporter import Profile, Reporter
from llmjax.training.session import Session
from llmjax.training.stopping import HostConsensus, StopSignal
from llmjax.training.workload import EvalResult

TRAIN_KEYS = ("loss", "bits_per_byte", "accuracy")
"""Keys of every record of training in metrics.jsonl, None where a loss does not name them."""


class Trainer:
    """Takes a run from where it is to its last step."""

    def __init__(
        self,
        session: Session,
        state: TrainState,
        progress: TrainProgress,
        checkpoints: Checkpoints,
        reporter: Reporter,
        loader: Loader,
        frozen: Tree,
        signal: StopSignal,
    ):
        """`progress` is of `state`, the loader's first batch is the one that comes next, and
        `frozen` are the frozen parameters. `signal` asks for a stop; its standing is
        kept up to date."""
        self.session, self.state, self.progress = session, state, progress
        self._checkpoints, self._reporter, self._loader = checkpoints, reporter, loader
        self._frozen, self._signal, self._standing = frozen, signal, signal.standing
        self._agree = HostConsensus(session.mesh, wishes=2)
        self._stops = self._saves = False  # what all processes agreed on
        self._pending: tuple[int, StepMetrics] | None = None
        self._skipped_in_a_row = 0
        self._saved_at = time.monotonic()
        self._seconds_before = progress.seconds
        self._throughput = Throughput(
            session.flops_per_token, peak_flops(), lambda: loader.wait_seconds
        )

    def run(self) -> None:
        """Trains to the end; the last step is evaluated and saved.

        Raises:
          Stopped: a signal came; the step in which it came is saved.
          UserError: a checkpoint cannot be written, or too many steps in a row were not finite.
        """
        session, config, first = self.session, self.session.config, self.progress.step
        steps = [self._program(loss) for loss in session.workload.losses]
        profile = Profile(session.run.profile, config.log.profile)
        self._signal.finish_first()
        with profile:
            self._catch_up()
            if self._is_over(first):
                return
            for before, batch in self._loader:
                step = self._standing.step = before + 1
                profile.before(before - first, self._wait)
                take_step = steps[self._loader.feed.task(before)]
                self.state, metrics = take_step(self.state, batch, self._frozen)
                self._hand_on((step, metrics))
                self._look_up(self._save_is_late())
                self._after(step, self._saves)
                if self._stops and (self._is_due() or not self._is_over(step)):
                    raise self._stopped(step)
                if self._is_over(step):
                    return

    def _is_over(self, step: int) -> bool:
        patience = self.session.config.evaluation.patience
        return step >= self.session.steps or self.progress.is_over(patience)

    def _look_up(self, save: bool) -> None:
        """Learns whether any process is to stop, and whether one wants to save."""
        stops, saves = self._agree(self._signal.asks(), save)
        self._stops, self._saves = self._stops or stops, self._saves or saves

    def _stopped(self, step: int, trained: bool = True) -> Stopped:
        return Stopped(step, self._signal.name or "a signal to another process", trained)

    def _program(self, loss: LossFunction) -> Step:
        session, config = self.session, self.session.config
        return make_train_step(
            loss,
            session.optimizer,
            seed=config.seed,
            clip_norm=config.optimizer.clip_norm,
            accumulate=config.optimizer.accumulate,
        )

    def _after(self, step: int, save: bool) -> None:
        """What is due after `step` steps: an evaluation, samples, a checkpoint. On a stop the
        checkpoint says what of it was left out."""
        cost = None
        self.progress = self._with_dues(step)
        try:
            if not self._stops:
                cost = self._measure(step)
        except Interrupted:
            cost = None
        finally:  # what cannot be measured was learned all the same
            wanted = save or self._stops or self._is_over(step) or self._is_best(cost)
            if wanted or self._is_due() or _due(step, self.session.config.checkpoint.every):
                self._save(step, cost)

    def _with_dues(self, step: int) -> TrainProgress:
        """The progress, with what is still to be evaluated and sampled after a step."""
        config, last = self.session.config, self._is_over(step)
        return replace(
            self.progress,
            evaluation_due=step >= self.session.steps or _due(step, config.evaluation.every),
            samples_due=config.samples.every > 0 and (last or _due(step, config.samples.every)),
        )

    def _is_due(self) -> bool:
        return self.progress.evaluation_due or self.progress.samples_due

    def _measure(self, step: int) -> float | None:
        """Makes what is due, and notes that it was made; what is to be small, where it compares.

        Raises:
          Interrupted: all processes are to stop; what was begun counts as not made.
        """
        cost = None
        with stoppable(self._leave_if_asked):
            if self.progress.evaluation_due:
                self._standing.measuring = "evaluation"
                cost = self._evaluate(step, whole=step >= self.session.steps)
                self.progress = replace(self._with_dues(step), evaluation_due=False)
            if self.progress.samples_due:
                self._standing.measuring = "samples"
                self._sample(step)
                self.progress = replace(self.progress, samples_due=False)
        self._standing.measuring = ""
        return cost

    def _leave_if_asked(self) -> None:
        self._look_up(False)
        if self._stops:
            raise Interrupted

    def _catch_up(self) -> None:
        """Makes what a stop has left out after the step that the run goes on from."""
        step, left, now = self.progress.step, self.progress, self._with_dues(self.progress.step)
        self.progress = replace(
            left,
            evaluation_due=left.evaluation_due and now.evaluation_due,
            samples_due=left.samples_due and now.samples_due,
        )
        if not self._is_due():
            return
        try:
            cost = self._measure(step)
        except Interrupted:
            raise self._stopped(step, trained=False) from None
        self._checkpoints.complete(replace(self.progress, heldout_loss=cost))

    def _is_best(self, cost: float | None) -> bool:
        """Whether a measurement of just now is the best so far of a figure that the run goes by."""
        config = self.session.config
        goes_by_one = config.evaluation.metric is not None and config.checkpoint.keep_best > 0
        return goes_by_one and cost is not None and self.progress.worse == 0

    def _hand_on(self, new: tuple[int, StepMetrics] | None) -> None:
        """Counts the step before, now that the devices are busy with the new one."""
        before, self._pending = self._pending, new
        if before is not None:
            self._count(*before)

    def _count(self, step: int, metrics: StepMetrics) -> None:
        """Reads the metrics of a step; waits for it to end."""
        metrics = jax.device_get(metrics)
        skipped = int(metrics.skipped)
        self._throughput.add(metrics)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        self.progress = replace(
            self.progress,
            step=step,
            epoch=self.session.progress(step).epoch,
            tokens=self.progress.tokens + round(float(metrics.tokens)),
            skipped=self.progress.skipped + skipped,
            seconds=self._seconds_before + self._throughput.seconds,
            heldout_loss=None,
        )
        self._standing.trained = True
        per_step = self._throughput.seconds_per_step
        left = None if per_step is None else per_step * (self.session.steps - step)
        self._reporter.display.advance(step, left)
        if step % self.session.config.log.every == 0 or step == self.session.steps:
            figures = self._throughput.report() | self._totals()
            self._reporter.write("train", step, dict.fromkeys(TRAIN_KEYS) | figures)
        if self._skipped_in_a_row >= max(self.session.config.max_skipped_steps, 1):
            self._give_up()

    def _totals(self) -> dict[str, float | None]:
        progress = self.progress
        return {
            "device_memory_bytes": memory_bytes(),
            "epoch": progress.epoch,
            "skipped": progress.skipped,
            "tokens": progress.tokens,
        }

    def _evaluate(self, step: int, *, whole: bool) -> float | None:
        """Measures on what is held out and reports it; what is to be small of that, if it is finite
        and compares with earlier measurements."""
        session, config = self.session, self.session.config.evaluation
        with self._paused():
            score = session.workload.evaluate(self.params, session.mesh, whole)
            if score is None:
                return None
            self._reporter.write(
                "eval", step, {"loss": score.loss} | score.figures | self._totals()
            )
            self._reporter.details(step, score.details)
        cost = measured_cost(score, config.metric)
        if whole and session.workload.evaluates_part(config.metric):
            return None
        self.progress = self.progress.update_best(cost)
        return cost if cost is not None and math.isfinite(cost) else None

    @property
    def params(self) -> Tree:
        """All parameters, frozen ones included."""
        return join(self.state.params, self._frozen)

    def _sample(self, step: int) -> None:
        with self._paused():
            for prompt, text in write_samples(self.session, self.params):
                self._reporter.sample(step, prompt, text)

    def _save(self, step: int, cost: float | None = None) -> None:
        """Hands the state over; it is written while training goes on."""
        with self._paused():
            progress = replace(self.progress, heldout_loss=cost)
            self._checkpoints.save(self.state, progress)
        self._saved_at, self._saves, self._standing.saved = time.monotonic(), False, step

    def _save_is_late(self) -> bool:
        minutes = self.session.config.checkpoint.every_minutes
        return minutes is not None and time.monotonic() - self._saved_at > 60 * minutes

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Lets the steps end, then stops the clock of throughput for the block."""
        self._wait()
        with self._throughput.paused():
            yield

    def _wait(self) -> None:
        self._hand_on(None)
        jax.block_until_ready(self.state)

    def _give_up(self) -> None:
        """Too many steps in a row were not finite; the parameters are those before them."""
        self._skipped_in_a_row, limit = 0, self.session.config.max_skipped_steps
        self._wait()
        self._checkpoints.save(self.state, self.progress)
        self._checkpoints.wait()
        raise UserError(
            f"step {self.progress.step}",
            f"loss or gradient was not finite for {limit} steps in a row",
            f"checkpoint {self.progress.step} holds the parameters from before them: the same "
            "command resumes from there; a new run may need a lower learning rate",
        )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def measured_cost(score: EvalResult, metric: str | None) -> float | None:
    """What is to be small of a measurement.

    Raises:
      UserError: it has no such figure.
    """
    try:
        return score.cost(metric)
    except KeyError as error:
        known = ", ".join(["loss", *score.larger_is_better])
        raise UserError(
            f"evaluation.metric {metric}", "is not measured here", f"choose one of {known}"
        ) from error


def write_samples(session: Session, params: Any) -> list[tuple[str, str]]:
    """(prompt, text) of each prompt of the config."""
    config = session.config.samples
    texts = [""] * len(config.prompts) * config.decoding.samples
    pieces = stream_completions(
        session.model,
        body(params),
        session.tokenizer,
        config.prompts,
        config.decoding,
        session.mesh,
    )
    for piece in pieces:
        texts[piece.row] += piece.text
    return [(config.prompts[i // config.decoding.samples], text) for i, text in enumerate(texts)]
