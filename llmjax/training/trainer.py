"""The training loop. Metrics are read one step late, so that no device waits for the host."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import jax

from llmjax.data.loader import Loader
from llmjax.errors import Stopped, UserError
from llmjax.interruption import Interrupted, stoppable
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.run.telemetry.goodput import Activity
from llmjax.run.telemetry.throughput import Throughput, memory_bytes, peak_flops
from llmjax.state import TrainState, Tree, join
from llmjax.step import StepMetrics
from llmjax.training.dues import (
    has_dues,
    is_best,
    is_due,
    is_local_due,
    is_over,
    still_due,
    tasks_due,
    with_dues,
)
from llmjax.training.in_run_evaluation import measure_tasks
from llmjax.training.monitors import Monitors
from llmjax.training.reporter import Profile, Reporter
from llmjax.training.roll_back import Spike, describe, roll_back
from llmjax.training.samples import write_samples
from llmjax.training.session import Session
from llmjax.training.steps import Steps
from llmjax.training.stopping import HostConsensus, StopSignal
from llmjax.training.workload import evaluation_cost

TRAIN_KEYS = ("loss", "bits_per_byte", "accuracy")
"""Keys of every training record in metrics.jsonl; None if the loss does not report them."""


class Trainer:
    """Trains a run from its current step to its last."""

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
        monitors: Monitors,
    ):
        """Args:
        session: the run.
        state: the state after `progress.step` steps.
        progress: the totals up to then.
        checkpoints: where the state is saved.
        reporter: where metrics and samples are reported.
        loader: batches from `progress.step` on.
        frozen: the frozen parameters.
        signal: requests a stop; its status is kept up to date.
        monitors: what the run's time is spent on, and what keeps it waiting.
        """
        self.session, self.state, self.progress = session, state, progress
        self._checkpoints, self._reporter, self._loader = checkpoints, reporter, loader
        self._frozen, self._signal, self._status = frozen, signal, signal.status
        self._goodput, self._watchdog, self._stragglers = monitors
        self._steps = Steps(session, frozen, signal.status, monitors, self._paused)
        self._consensus = HostConsensus(session.mesh, flags=2)
        self._stops = self._saves = False  # as of all processes
        self._pending: tuple[int, StepMetrics] | None = None
        self._skipped_in_a_row = 0
        self._saved_at = time.monotonic()
        self._start_counting()

    def _start_counting(self) -> None:
        self._seconds_before, loader = self.progress.seconds, self._loader
        self._throughput = Throughput(
            self.session.flops_per_token(0), peak_flops(), lambda: loader.wait_seconds
        )

    def run(self) -> None:
        """Trains to the last step, which is evaluated and saved.

        Raises:
          Stopped: a signal was received; the step during which it came is saved.
          UserError: a checkpoint cannot be written, too many steps in a row were not finite, or
            the run has rolled back too often.
          DataCorruption: a step computed twice differs; it is not saved.
        """
        self._signal.finish_first()
        with Profile(self.session.run.profile, self.session.config.log.profile) as profile:
            self._make_up()
            if is_over(self.session, self.progress, self.progress.step):
                return
            while True:
                try:
                    self._train(profile)
                except Spike as spike:
                    self._roll_back(spike)
                else:
                    return

    def _train(self, profile: Profile) -> None:
        left_out = self.progress.batches_left_out
        for index, batch in self._loader:
            self.session.run.check_lock()
            step = self._status.step = index + 1 - left_out
            profile.before_step(self._wait)
            task = self._loader.feed.task(index)
            self._watchdog.start_step(step)
            self.state, metrics = self._steps.take(step, task, self.state, batch)
            self._push_metrics((step, metrics))
            self._sync_flags(self._is_save_overdue())
            self._after_step(step, self._saves)
            over = is_over(self.session, self.progress, step)
            if self._stops and (has_dues(self.progress) or not over):
                raise self._stopped(step)
            if over:
                return

    def _roll_back(self, spike: Spike) -> None:
        """Returns to the newest checkpoint, from which training goes on after the spike's batch."""
        self._pending, self._skipped_in_a_row, before = None, 0, self.progress
        with self._watchdog.off(), self._goodput.spent("start"):
            self.state, self.progress = roll_back(
                self.session, self._checkpoints, spike, before, self.state
            )
        step = self._status.step = self.progress.step
        if self._status.saved is not None:
            self._status.saved = step
        self.session = self.session.within_data(self.progress)
        self._goodput.roll_back(step)
        self._reporter.roll_back(step, spike.record(self.progress))
        if self.session.is_primary:
            self._signal.tell(f"llmjax: {describe(spike, self.progress)}")
        self._loader.seek(self.progress.batch)
        self._start_counting()
        self._stragglers.restart()

    def _sync_flags(self, save: bool) -> None:
        """Shares with all processes whether this one has to stop, and whether it has to save."""
        with self._stragglers.waiting():
            stops, saves = self._consensus(self._signal.asks(), save)
        self._stops, self._saves = self._stops or stops, self._saves or saves

    def _stopped(self, step: int, trained: bool = True) -> Stopped:
        return Stopped(step, self._signal.name or "a signal to another process", trained)

    def _after_step(self, step: int, save: bool) -> None:
        """Evaluates, samples and saves, where due. After a stop the checkpoint records what was
        skipped."""
        cost = None
        self.progress = replace(with_dues(self.session, self.progress, step), heldout_loss=None)
        try:
            if not self._stops:
                cost = self._evaluate_and_sample(step)
        except Interrupted:
            cost = self.progress.heldout_loss  # of what was measured before
        except Spike:
            raise
        except BaseException:
            self._save_if_due(step, save, cost)
            raise
        self._save_if_due(step, save, cost)

    def _save_if_due(self, step: int, save: bool, cost: float | None) -> None:
        session, progress = self.session, self.progress
        save = save or self._stops or is_best(session, progress, cost)
        save = save or is_over(session, progress, step)
        if save or has_dues(progress) or is_due(step, session.config.checkpoint.every):
            self._save(step, cost)
        elif is_local_due(session, step):
            self._save_local(step, cost)

    def _evaluate_and_sample(self, step: int) -> float | None:
        """Does what is due, and marks it as done; returns the step's cost, None if it has none that
        compares with those of earlier steps.

        Raises:
          Interrupted: all processes have to stop; what was begun stays due.
        """
        with stoppable(self._check_stop):
            if self.progress.evaluation_due:
                self._status.measuring = "evaluation"
                self._evaluate(step, full=step >= self.session.steps)
                self.progress = replace(
                    with_dues(self.session, self.progress, step), evaluation_due=False
                )
            if self.progress.tasks_due:
                self._status.measuring = "evaluation"
                self._measure_tasks(step)
                due = with_dues(self.session, self.progress, step)
                self.progress = replace(due, evaluation_due=False, tasks_due=False)
            if self.progress.samples_due:
                self._status.measuring = "samples"
                self._sample(step)
                self.progress = replace(self.progress, samples_due=False)
        self._status.measuring = ""
        return self.progress.heldout_loss

    def _check_stop(self) -> None:
        self._watchdog.progress()
        self._sync_flags(False)
        if self._stops:
            raise Interrupted

    def _make_up(self) -> None:
        """Does what an earlier stop skipped after the step that the run resumes from."""
        step = self.progress.step
        self.progress = still_due(self.session, self.progress)
        if not has_dues(self.progress):
            return
        try:
            cost = self._evaluate_and_sample(step)
        except Interrupted:
            raise self._stopped(step, trained=False) from None
        self._checkpoints.complete(replace(self.progress, heldout_loss=cost))

    def _push_metrics(self, new: tuple[int, StepMetrics] | None) -> None:
        """Records the previous step while the devices are busy with the new one."""
        previous, self._pending = self._pending, new
        if previous is not None:
            self._record(*previous)

    def _record(self, step: int, metrics: StepMetrics) -> None:
        """Adds up and logs the metrics of a step; blocks until it has ended."""
        with self._stragglers.waiting():
            metrics = jax.device_get(metrics)
        self._stragglers.end_step()
        self._watchdog.progress()
        skipped = int(metrics.skipped)
        batch = self.progress.batches_left_out + step - 1
        if skipped and self.session.config.spikes.action == "roll_back":
            raise Spike(step, batch, metrics)
        self._throughput.add(metrics, self.session.flops_per_token(batch))
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if skipped and self.session.is_primary:
            loss, norm = float(metrics.objective), float(metrics.gradient_norm)
            self._signal.tell(
                f"llmjax: step {step}: update skipped: loss {loss:.4g}, gradient norm {norm:.4g}"
            )
        self.progress = replace(
            self.session.advanced(self.progress, step),
            tokens=self.progress.tokens + round(float(metrics.tokens)),
            skipped=self.progress.skipped + skipped,
            seconds=self._seconds_before + self._throughput.seconds,
            heldout_loss=None,
        )
        self._status.trained = True
        per_step = self._throughput.seconds_per_step
        left = None if per_step is None else per_step * (self.session.steps - step)
        self._reporter.display.advance(step, left)
        if step % self.session.config.log.every == 0 or step == self.session.steps:
            record = dict.fromkeys(TRAIN_KEYS) | self._throughput.report() | self._totals()
            record |= {"goodput": self._goodput.share} | self._stragglers.report(step)
            self._reporter.write("train", step, record)
            self._goodput.keep()
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

    def _evaluate(self, step: int, *, full: bool) -> None:
        """Evaluates on the validation set, and reports and judges the result."""
        session, config = self.session, self.session.config.evaluation
        with self._paused("evaluation"):
            result = session.workload.evaluate(self.params, session.mesh, full)
            if result is None:
                return
            self._reporter.write(
                "eval", step, {"loss": result.loss} | result.metrics | self._totals()
            )
            self._reporter.details(step, result.details)
        if config.task_of_metric is not None:
            return  # `_measure_tasks` measures it
        cost = evaluation_cost(result, config.metric)
        if not (full and session.workload.evaluates_subset(config.metric)):
            self._judge(cost)

    def _measure_tasks(self, step: int) -> None:
        """Measures the tasks that are due, and reports and judges the result."""
        session, metric = self.session, self.session.config.evaluation.metric
        with self._paused("evaluation"):
            due = tasks_due(self.session, self.progress, step)
            measured = measure_tasks(due, session.language_model(self.params, step))
            self._reporter.write("tasks", step, measured.record | self._totals())
        if metric is not None and session.config.evaluation.task_of_metric is not None:
            self._judge(measured.cost(metric))

    def _judge(self, cost: float | None) -> None:
        """Compares the cost of this step with earlier ones, unless it is None."""
        self.progress = self.progress.update_best(cost)
        if cost is not None and math.isfinite(cost):
            self.progress = replace(self.progress, heldout_loss=cost)

    @property
    def params(self) -> Tree:
        """All parameters, including the frozen ones."""
        return join(self.state.params, self._frozen)

    def _sample(self, step: int) -> None:
        with self._paused("samples"):
            for prompt, text in write_samples(self.session, self.params):
                self._reporter.sample(step, prompt, text)

    def _save(self, step: int, cost: float | None = None) -> None:
        """Starts saving the state; it is written while training continues."""
        with self._paused("saving"):
            progress = replace(self.progress, heldout_loss=cost)
            self._checkpoints.save(self.state, progress)
        self._goodput.saved(step)
        self._saved_at, self._saves, self._status.saved = time.monotonic(), False, step

    def _save_local(self, step: int, cost: float | None) -> None:
        """Starts saving the state to the local disks."""
        with self._paused("saving"):
            self._checkpoints.save_local(self.state, replace(self.progress, heldout_loss=cost))
        self._goodput.saved(step)
        self._status.saved = step

    def _is_save_overdue(self) -> bool:
        minutes = self.session.config.checkpoint.every_minutes
        return minutes is not None and time.monotonic() - self._saved_at > 60 * minutes

    @contextlib.contextmanager
    def _paused(self, activity: Activity) -> Iterator[None]:
        """Waits for the devices, then leaves the block out of the throughput."""
        self._wait()
        with self._throughput.paused(), self._goodput.spent(activity):
            yield
        self._stragglers.restart()

    def _wait(self) -> None:
        self._push_metrics(None)
        jax.block_until_ready(self.state)

    def _give_up(self) -> None:
        """Saves and raises after too many steps in a row that were not finite, and thus left the
        parameters unchanged."""
        self._skipped_in_a_row, limit = 0, self.session.config.max_skipped_steps
        spike = " or a spike" if self.session.config.spikes.factor else ""
        self._wait()
        self._checkpoints.save(self.state, self.progress)
        self._checkpoints.wait()
        raise UserError(
            f"step {self.progress.step}",
            f"loss or gradient was not finite{spike} for {limit} steps in a row",
            f"checkpoint {self.progress.step} holds the parameters from before them: the same "
            "command resumes from there; a new run may need a lower learning rate",
        )
