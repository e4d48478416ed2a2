"""How processes learn of each other's end: connections that break when a process dies.

No process sends anything while all is well. When one is killed, its kernel closes the connection at
once; when a machine or the network fails, TCP's keepalive finds out within 20 seconds, also while
Python is busy. Then each process says which one is gone, and ends: JAX would wait for minutes, and
end with a stack of C++.
"""

import atexit
import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import NamedTuple

from llmjax.errors import INTERNAL_ERROR, Stopped, UserError, exit_code
from llmjax.parallel.distributed.messages import Connection, Lost, say
from llmjax.parallel.distributed.roll_call import Present

LATE = 2.0
"""Seconds that a process which fails waits for news: it may fail because another one is gone."""


class Work(NamedTuple):
    """What is lost with a process.

    Attributes:
      at: where it stands, as "at step 4".
      resumes: how to go on.
      say: how to tell it.
      clean: removes what must not be left behind.
    """

    at: Callable[[], str]
    resumes: Callable[[], str]
    say: Callable[[str], None]
    clean: Callable[[], None]


class Link:
    """The connections of a process to the others; lasts as long as the process."""

    def __init__(self, own: int, present: Present):
        """Args:
        own: which process this is.
        present: all of them.
        """
        self._own, self._members = own, present.members
        self._connections = MappingProxyType(dict(present.connections))  # two threads read it
        self._work: Work | None = None
        self._leaving = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        atexit.register(self._finish)

    @contextlib.contextmanager
    def during(self, work: Work) -> Iterator[None]:
        """Within the block the others learn how this process fails, and it ends when one of them
        does."""
        self._work = work
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Stopped) or error.alone:
                self._leave(error)
            raise
        finally:
            self._work = None

    def _leave(self, error: BaseException) -> None:
        """Tells the others that this process fails; if one of them has died, ends instead."""
        if not isinstance(error, KeyboardInterrupt | Stopped):
            time.sleep(LATE)
        self._leaving.acquire()
        code = exit_code(error)
        # JAX would wait for the others, which have ended by then.
        atexit.register(_end, code)
        why = str(error) if isinstance(error, UserError | Stopped) else _in_words(error)
        for connection in self._connections.values():
            connection.send({"gone": self._own, "code": code, "why": why[:2000]})

    def _finish(self) -> None:
        """At the end of the program: this process goes as it should."""
        if self._leaving.acquire(blocking=False):
            for connection in self._connections.values():
                connection.send({"finished": self._own})

    def _watch(self) -> None:
        """Waits for messages and ends of connections, in a thread of its own."""
        open_ones = {one.fileno(): process for process, one in self._connections.items()}
        while open_ones:
            waiting = select.poll()
            for number in open_ones:
                waiting.register(number, select.POLLIN)
            for number, _ in waiting.poll():
                process = open_ones[number]
                if self._hears_last(process, self._connections[process]):
                    del open_ones[number]

    def _hears_last(self, process: int, connection: Connection) -> bool:
        """Reads a message, and ends this process if another is gone; whether no more will come."""
        try:
            message = connection.receive()
        except (Lost, UserError):
            self._lose(process, INTERNAL_ERROR, "")
            return True
        gone, code = message.get("gone"), message.get("code")
        if isinstance(gone, int) and isinstance(code, int) and 0 <= gone < len(self._members):
            self._lose(gone, code, str(message.get("why", "")))
            return True
        return "finished" in message

    def _lose(self, process: int, code: int, why: str) -> None:
        """Tells the others and the user that a process is gone, and ends this one; unless it ends
        already, for a reason of its own."""
        if not self._leaving.acquire(blocking=False):
            return
        for other, connection in self._connections.items():
            if other != process:
                connection.send({"gone": process, "code": code, "why": why})
        work, member = self._work, self._members[process]
        died = f"died {work.at()}; {work.resumes()}" if work else "died"
        what = f"left: {why}" if why else died
        (work.say if work else say)(f"llmjax: error: {member} {what}")
        if work:
            work.clean()
        _end(code)


def _end(code: int) -> None:
    """Ends the process at once, with the terminal's cursor shown again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _in_words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
