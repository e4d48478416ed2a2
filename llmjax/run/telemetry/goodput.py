"""Goodput: what the wall time of a run was spent on, over all its starts.

The times add up to the wall time since the first start. They are kept in goodput.json, written
when the first start begins, every ten seconds or so while steps are logged, at the end of a start,
and when its program ends.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from llmjax.errors import UserError
from llmjax.storage.json_documents import SETTINGS, json_text, read_json
from llmjax.storage.writing import write_atomically

Activity = Literal[
    "start",
    "compile",
    "steps",
    "data",
    "evaluation",
    "samples",
    "saving",
    "replay",
    "lost",
    "down",
]
ACTIVITIES: dict[Activity, str] = {
    "start": "starting and ending the program, preparing data, reading checkpoints",
    "compile": "tracing and compiling the step",
    "steps": "training",
    "data": "waiting for batches",
    "evaluation": "evaluating",
    "samples": "generating samples",
    "saving": "starting to save; the rest is written in the background",
    "replay": "computing steps twice, to compare them",
    "lost": "steps that were repeated after a restart, or left by a roll back",
    "down": "not running, or not recorded before it was killed",
}
"""What time is spent on."""
KEPT_SECONDS = 10.0
"""Seconds between writes while steps are logged: the disk is not waited for at each of them."""
CHECKPOINTS = 100
"""The newest checkpoints whose time is remembered, to know what a restart loses."""


class Goodput:
    """Counts the time of a run. Use it as a context manager."""

    def __init__(self, file: Path | None, started: float, clock: Callable[[], float] = time.time):
        """Args:
        file: goodput.json; None: nothing is written.
        started: when this start began, in seconds since the epoch.
        clock: seconds since the epoch.
        """
        self._file, self._clock = file, clock
        self._seconds: dict[Activity, float] = dict.fromkeys(ACTIVITIES, 0.0)
        self._saved: dict[int, float] = {}
        self._starts = 0
        self._activity: Activity = "start"
        self._started = self._since = started
        self._waited = self._written = 0.0
        self._data_wait: Callable[[], float] = lambda: 0.0
        self._stored = read_goodput(file)
        if self._stored is None:
            self._store(starts=1)  # if this start is killed before it trains, its time is not lost

    def begin(self, step: int, data_wait: Callable[[], float]) -> None:
        """Counts what follows, outside `spent`, as training.

        Args:
          step: the step that the run resumes from; later ones were lost.
          data_wait: returns the total seconds that steps have waited for batches.
        """
        self._switch("steps")
        if stored := self._stored:
            trained, saved = stored["seconds"]["steps"], stored["saved"]
            kept = min(saved.get(str(step), trained), trained) if step else 0.0
            for activity, seconds in stored["seconds"].items():
                self._seconds[activity] += seconds
            self._seconds["steps"] += kept - trained
            self._seconds["lost"] += trained - kept
            self._seconds["down"] += max(0.0, self._started - stored["time"])
            self._saved = {int(at): value for at, value in saved.items() if int(at) <= step}
            self._starts = stored["starts"]
        self._starts += 1
        self._data_wait, self._waited = data_wait, data_wait()
        self.write()

    def roll_back(self, step: int) -> None:
        """Counts the training since a checkpoint as lost; step 0: all of it."""
        self._switch(self._activity)
        trained = self._seconds["steps"]
        kept = min(self._saved.get(step, trained), trained) if step else 0.0
        self._seconds["steps"] = kept
        self._seconds["lost"] += trained - kept
        self._saved = {at: value for at, value in self._saved.items() if at <= step}

    def end(self) -> None:
        """Counts what follows as saving: checkpoints are completed."""
        self._switch("saving")

    def __enter__(self) -> "Goodput":
        return self

    def __exit__(self, *_: object) -> None:
        self.write()
        if self._file is not None and self._stored is None and not self._starts:
            self._file.unlink(missing_ok=True)  # it has ended before it trained

    @contextlib.contextmanager
    def spent(self, activity: Activity) -> Iterator[None]:
        """Counts the block as this activity."""
        outer = self._activity
        self._switch(activity)
        try:
            yield
        finally:
            self._switch(outer)

    def saved(self, step: int) -> None:
        """Remembers the time at a checkpoint."""
        self._switch(self._activity)
        self._saved[step] = self._seconds["steps"]
        for old in sorted(self._saved)[:-CHECKPOINTS]:
            del self._saved[old]

    @property
    def share(self) -> float | None:
        """The share of the wall time that was spent on training; None at its very beginning."""
        self._switch(self._activity)
        total = sum(self._seconds.values())
        return self._seconds["steps"] / total if total > 0 else None

    def keep(self) -> None:
        """Writes goodput.json, unless that was done within the last KEPT_SECONDS."""
        if self._clock() - self._written >= KEPT_SECONDS:
            self.write()

    def write(self) -> None:
        """Writes goodput.json, if it can be written; training matters more."""
        self._switch(self._activity)
        if self._starts:
            self._store(self._starts)

    def left(self) -> None:
        """Counts the time since the end of the context manager as this start's, and writes it,
        unless another start has written since, or this one never trained."""
        stored = read_goodput(self._file)
        if stored is not None and stored["time"] == self._since:
            self._activity = "start"
            self.write()

    def _store(self, starts: int) -> None:
        if self._file is None:
            return
        self._written = self._since
        document = {
            "seconds": self._seconds,
            "starts": starts,
            "saved": {str(step): seconds for step, seconds in self._saved.items()},
            "time": self._since,
        }
        with contextlib.suppress(OSError):
            write_atomically(self._file, json_text(document, indent=1) + "\n")

    def _switch(self, activity: Activity) -> None:
        """Adds the time since the last switch to the activity that ends."""
        now, waited = self._clock(), self._data_wait()
        elapsed = max(0.0, now - self._since)
        if self._activity == "steps":
            wait = min(max(0.0, waited - self._waited), elapsed)
            self._seconds["data"] += wait
            elapsed -= wait
        self._seconds[self._activity] += elapsed
        self._activity, self._since, self._waited = activity, now, waited


def read_goodput(file: Path | None) -> dict[str, Any] | None:
    """What goodput.json holds: seconds by activity, starts, training seconds at each checkpoint,
    and the time of writing; None if it is missing or damaged."""
    if file is None or not file.is_file():
        return None
    try:
        stored = read_json(file, limits=SETTINGS)
        numbers = [*stored["seconds"].values(), *stored["saved"].values(), stored["time"]]
        steps = [int(step) for step in stored["saved"]]
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        return None
    plain = all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers)
    known = isinstance(stored["seconds"], Mapping) and stored["seconds"].keys() <= set(ACTIVITIES)
    count = stored.get("starts")
    fine = plain and known and isinstance(count, int) and count > 0 and min(steps, default=0) >= 0
    return stored if fine else None
