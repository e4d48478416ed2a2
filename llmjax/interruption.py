"""Long work that can be stopped between its batches.

Whoever goes through many batches calls `between_batches` before each; whoever must be able to stop
that work sets the check that is made there. With several processes all of them call it equally
often, so that a check may agree with the others.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


class Interrupted(Exception):
    """Raised by a check to stop the work; nothing of it is kept."""


def between_batches() -> None:
    """Makes the check that is set; without one, does nothing.

    Raises:
      Interrupted: the work is to stop.
    """
    check = _check.get()
    if check is not None:
        check()


@contextlib.contextmanager
def stoppable(check: Callable[[], None]) -> Iterator[None]:
    """Within the block, `between_batches` calls `check`, which raises Interrupted to stop."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Within the block, this thread does not receive SIGINT; one that comes meanwhile follows it.

    Processes that are started in the block never receive it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
