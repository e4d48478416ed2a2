"""Rows as processes of this machine."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from llmjax.errors import STOPPED, UserError
from llmjax.scaling.engines.engine import Done, Engine, command, log_file

POLL = 0.2
"""Seconds between looks at the processes."""


@dataclass(frozen=True)
class LocalEngine(Engine):
    """Processes of this machine. SIGTERM and Ctrl-C reach all: they save and end."""

    jobs: int = 1
    """Rows at a time."""
    kind: Literal["local"] = "local"

    def run(self, folder: Path, rows: Sequence[str], done: Done) -> list[int]:
        if self.jobs < 1:
            raise UserError(f"--engine.jobs {self.jobs}", "must be at least 1")
        waiting, running = list(range(len(rows))), dict[int, subprocess.Popen[bytes]]()
        codes = [0] * len(rows)
        sent = 0
        with _signals() as received:
            while waiting or running:
                while waiting and len(running) < self.jobs and not received:
                    index = waiting.pop(0)
                    running[index] = _start(folder, rows[index])
                for number in received[sent:]:
                    sent += 1
                    for process in running.values():
                        process.send_signal(number)
                if received:
                    codes = [STOPPED if i in waiting else code for i, code in enumerate(codes)]
                    waiting = []
                for index, process in list(running.items()):
                    if (code := process.poll()) is not None:
                        codes[index] = code if code >= 0 else 128 - code
                        del running[index]
                        done(index, codes[index])
                time.sleep(POLL)
        return codes


def _start(folder: Path, row: str) -> subprocess.Popen[bytes]:
    path = log_file(folder, row)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            # A session of its own: Ctrl-C in a terminal must reach it once, by this process.
            return subprocess.Popen(
                command(folder, row), stdout=log, stderr=log, start_new_session=True
            )
    except OSError as error:
        raise UserError(path, f"cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Notes SIGTERM and SIGINT while the block runs, in order."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
