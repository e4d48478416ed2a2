"""Errors raised on purpose: a user's mistake, or a stop by a signal."""

import copyreg
from typing import Any


def printable(text: str) -> str:
    """Escapes control characters and unpaired surrogates, so that text is safe to print."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not valid UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class UserError(Exception):
    """A user's mistake: what is wrong, why, and how to fix it.

    The command line prints it as one line and exits with code 2.

    Args:
      thing: the path, field or tensor that is wrong.
      reason: why it cannot be used, in a few words.
      fix: what to do about it; empty if the reason implies it.
    """

    def __init__(self, thing: object, reason: str, fix: str = ""):
        self.thing, self.reason, self.fix = str(thing), reason, fix
        line = f"{self.thing}: {reason}" + (f"; {fix}" if fix else "")
        super().__init__(" ".join(line.split()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies without calling `__init__`, whose arguments differ between subclasses."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class NoAnswer(UserError):
    """Another process of the run did not report in time: by a user's mistake, or because it hangs.

    The command line prints it as one line and exits with code 76, since another start may succeed.
    """


class Stopped(Exception):
    """Training was stopped by a signal; the same command resumes it.

    The command line exits with code 75.

    Args:
      step: of the newest checkpoint; None if there is none.
      signal: its name, such as "SIGTERM".
      trained: whether that checkpoint was saved on the signal; else nothing was trained since.
      alone: whether this process, one of several, stops without the agreement of the others.
    """

    def __init__(self, step: int | None, signal: str, trained: bool = True, alone: bool = False):
        self.step, self.signal, self.alone = step, signal, alone
        if trained:
            line = f"saved step {step}; start the same command again to resume"
        elif step is None:
            line = "nothing was trained yet; start the same command again to begin"
        else:
            line = f"nothing was trained since step {step}; start the same command again to resume"
        super().__init__(f"{signal}: {line}")


class DataCorruption(Exception):
    """A device computed wrong numbers without an error; training ends without saving them.

    The command line exits with code 77.
    """


DONE, INTERNAL_ERROR, MISTAKE = 0, 1, 2
STOPPED, HUNG, CORRUPTED, INTERRUPTED = 75, 76, 77, 130
"""Exit codes: done; an internal error; the user's mistake; stopped by a signal with a checkpoint
saved; a process hung; a device computed wrong numbers; interrupted without saving."""


def exit_code(error: BaseException) -> int:
    """Returns the exit code of a command that ends with this error."""
    if isinstance(error, UserError):
        return HUNG if isinstance(error, NoAnswer) else MISTAKE
    if isinstance(error, Stopped):
        return STOPPED
    if isinstance(error, DataCorruption):
        return CORRUPTED
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else INTERNAL_ERROR
