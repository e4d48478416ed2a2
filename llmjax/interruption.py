"""Interruption of long work between its batches.

Loops over batches call `between_batches` before each one; a caller that may stop them installs the
check it runs. All processes of a run call it equally often, so a check may be a collective.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


class Interrupted(Exception):
    """Raised by a check to stop the work; partial results are discarded."""


def between_batches() -> None:
    """Runs the installed check, if there is one.

    Raises:
      Interrupted: the check stops the work.
    """
    check = _check.get()
    if check is not None:
        check()


@contextlib.contextmanager
def stoppable(check: Callable[[], None]) -> Iterator[None]:
    """Installs `check`, run by `between_batches`; it raises Interrupted to stop the work."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defers SIGINT in this thread until the block ends.

    Processes started in the block never receive it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
