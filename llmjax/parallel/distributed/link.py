"""Detects the death of other processes by broken connections.

When a process is killed, its kernel closes the connection at once; when a machine or the network
fails, TCP keepalive detects it within 20 seconds, even while Python is busy. Of a process that is
suspended the heartbeat tells. Each process then reports which one is gone and exits: JAX would wait
for minutes and abort with a C++ stack trace.
"""

import atexit
import contextlib
import faulthandler
import math
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import NamedTuple

from llmjax.errors import (
    HUNG,
    INTERNAL_ERROR,
    DataCorruption,
    Stopped,
    UserError,
    exit_code,
)
from llmjax.parallel.distributed.heartbeat import Heartbeat
from llmjax.parallel.distributed.messages import Connection, Lost, say
from llmjax.parallel.distributed.roll_call import ProcessGroup

LATE = 2.0
"""Seconds a failing process waits for a message: another process's death may be the cause."""

TIMED_OUT = "DEADLINE_EXCEEDED"
"""What JAX's errors say where another process did not take part in time. On CPUs, that is after
30 s in the first exchange of a program, which may be long before the watchdog's limit."""
SILENT = 15.0
"""Seconds of silence after which a process is to blame for such an error."""


class Work(NamedTuple):
    """Callbacks for the end of the work, when a process dies.

    Attributes:
      progress: says how far the work is, such as "at step 4".
      advice: says how to resume.
      report: prints a message.
      cleanup: removes what must not be left behind.
    """

    progress: Callable[[], str]
    advice: Callable[[], str]
    report: Callable[[str], None]
    cleanup: Callable[[], None]


class Link:
    """A process's connections to the others, for its lifetime."""

    def __init__(self, process: int, group: ProcessGroup):
        """
        Args:
          process: number of this process.
          group: all processes.
        """
        self._process, self._members = process, group.members
        self._connections = MappingProxyType(dict(group.connections))  # two threads read it
        self.heartbeat = Heartbeat(self._connections, self._end_silent)
        """Where the others are, and which of them no longer answers."""
        self._seconds: dict[int, float] = {}
        self._work: Work | None = None
        self._leaving = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self.heartbeat.start()
        atexit.register(self._finish)

    @contextlib.contextmanager
    def during(self, work: Work) -> Iterator[None]:
        """Within the block, a failure here is sent to the others, and one of theirs ends this."""
        self._work = work
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Stopped) or error.alone:
                self._leave(error)
            raise
        finally:
            self._work = None

    def send_seconds(self, seconds: float) -> None:
        """Tells the others how long this process takes for its part of a step."""
        for connection in self._connections.values():
            connection.send({"seconds": seconds})

    def seconds(self) -> dict[int, float]:
        """The seconds that each connected process last sent for its part of a step."""
        return dict(self._seconds)

    def host(self, process: int) -> str:
        """The host of a process."""
        return self._members[process].host

    def end(self, process: int, code: int, reason: str) -> None:
        """Reports to the others and the user why a process ends the run, and ends this one; shows
        what its threads are doing."""
        show_threads()
        self._lose(process, code, reason)

    def _leave(self, error: BaseException) -> None:
        """Sends this process's failure to the others, unless one of them died first."""
        is_late = isinstance(error, RuntimeError) and TIMED_OUT in str(error)
        if is_late and (silent := self.heartbeat.silent(SILENT)):
            self._end_silent(*silent)
        if not isinstance(error, KeyboardInterrupt | Stopped):
            time.sleep(LATE)
        self._leaving.acquire()
        code = HUNG if is_late else exit_code(error)
        # JAX would wait for the others, which exit too.
        atexit.register(_end, code)
        expected = isinstance(error, UserError | Stopped | DataCorruption)
        reason = str(error) if expected else _one_line(error)
        for connection in self._connections.values():
            connection.send({"gone": self._process, "code": code, "why": reason[:2000]})

    def _finish(self) -> None:
        """At exit: tells the others that this process finished normally."""
        if self._leaving.acquire(blocking=False):
            for connection in self._connections.values():
                connection.send({"finished": self._process})

    def _watch(self) -> None:
        """Waits for messages and closed connections, in its own thread."""
        watched = {link.fileno(): process for process, link in self._connections.items()}
        while watched:
            poll = select.poll()
            for descriptor in watched:
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll():
                process = watched[descriptor]
                if self._read(process, self._connections[process]):
                    del watched[descriptor]

    def _read(self, process: int, connection: Connection) -> bool:
        """Reads a message, and ends this process if another is gone.

        Returns:
          Whether it was the connection's last message.
        """
        try:
            message = connection.receive()
        except (Lost, UserError):
            self._lose(process, INTERNAL_ERROR, "")
            return True
        position = message.get("at")
        if isinstance(position, int):
            self.heartbeat.hear(process, position, message.get("busy") is True)
            return False
        seconds = message.get("seconds")
        if isinstance(seconds, int | float) and math.isfinite(seconds):
            self._seconds[process] = float(seconds)
            return False
        gone, code = message.get("gone"), message.get("code")
        if isinstance(gone, int) and isinstance(code, int) and 0 <= gone < len(self._members):
            if gone == self._process and code == HUNG:
                show_threads()
            self._lose(gone, code, str(message.get("why", "")))
            return True
        if "finished" in message:
            self.heartbeat.forget(process)
            return True
        return False

    def _end_silent(self, process: int, seconds: float) -> None:
        """Ends the run because of a process that has been silent for so many seconds."""
        where = self._work.progress() if self._work else "outside of training"
        self.end(process, HUNG, f"hangs {where}: has not answered for {seconds:.0f} s")

    def _lose(self, process: int, code: int, reason: str) -> None:
        """Reports to the others and the user that a process is gone, and ends this one.

        Does nothing if this process is already ending.
        """
        if not self._leaving.acquire(blocking=False):
            return
        for other, connection in self._connections.items():
            if other != process:
                connection.send({"gone": process, "code": code, "why": reason})
        work, member = self._work, self._members[process]
        if code == HUNG:
            event = f"{reason}; {work.advice()}" if work else reason
        elif reason:
            event = f"left: {reason}"
        else:
            event = f"died {work.progress()}; {work.advice()}" if work else "died"
        (work.report if work else say)(f"llmjax: error: {member} {event}")
        if work:
            work.cleanup()
        _end(code)


def show_threads() -> None:
    """Prints what each thread of this process is doing, if stderr can be written."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)


def _end(code: int) -> None:
    """Exits at once, after restoring the terminal's cursor."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
