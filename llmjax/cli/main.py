"""The entry point of the command line: dispatches to a command; every error becomes one line.

Exit codes:

    0 done   1 internal error, or another process died   2 user error
    75 stopped by a signal, checkpoint saved   76 a process hung, or did not report
    77 a device computed wrong numbers   130 interrupted without saving

Results go to stdout, everything else to stderr. Heavy imports wait until a command is chosen.
"""

import contextlib
import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llmjax.cli.registry import COMMANDS, SYNONYMS
from llmjax.cli.streams import OutputError, drop_output, finish_output, hold_standard_streams
from llmjax.errors import (
    CORRUPTED,
    DONE,
    INTERNAL_ERROR,
    INTERRUPTED,
    MISTAKE,
    STOPPED,
    DataCorruption,
    Stopped,
    UserError,
    exit_code,
    printable,
)
from llmjax.run.telemetry.program import Program

if TYPE_CHECKING:
    from llmjax.cli.command import Command

ENVIRONMENT_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}
"""Errors of the operating system that are never internal errors."""


def overview() -> str:
    """The text of `llmjax --help`."""
    return "\n".join(
        [
            "usage: llmjax COMMAND ...",
            "",
            "Train, fine-tune, evaluate, compress with and export language models in JAX.",
            "",
            *(f"  {name:11}{entry.summary}" for name, entry in COMMANDS.items()),
            "",
            "llmjax COMMAND --help shows the options of a command with their defaults.",
            "llmjax --version shows the version. First run: llmjax train quickstart",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit code.

    Args:
      argv: the words after `llmjax`; None for those of this process.
    """
    program = Program() if argv is None else None
    words = list(sys.argv[1:] if argv is None else argv)
    hold_standard_streams()
    code = _exit_code(words, program)
    try:
        finish_output()
    except BrokenPipeError:
        drop_output()  # the reader has left, as in `| head`
    except OutputError as error:
        drop_output()
        if code == DONE:
            return _report_mistake(UserError("standard output", error.strerror or str(error)))
    return code


def _exit_code(words: list[str], program: Program | None) -> int:
    """Runs a command line and reports any error."""
    debug = "--debug" in words
    try:
        return _dispatch(words, program)
    except UserError as error:
        if debug:
            traceback.print_exc()
        return _report_mistake(error)
    except Stopped as stop:
        _log_line(str(stop))
        return STOPPED
    except DataCorruption as error:
        _log_line(f"error: {error}")
        return CORRUPTED
    except BrokenPipeError:
        drop_output()
        return DONE
    except KeyboardInterrupt:
        _log_line("interrupted")
        return INTERRUPTED
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 (every error ends in one line)
        if debug:
            traceback.print_exc()
        if mistake := _as_mistake(error, words):
            return _report_mistake(mistake)
        summary = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        report = "this traceback" if debug else "the traceback that --debug shows"
        _log_line(f"internal error: {summary}; please report {report} to the developers of llmjax")
        return INTERNAL_ERROR


def _dispatch(words: list[str], program: Program | None) -> int:
    words = [word for word in words if word != "--debug"] if words[:1] == ["--debug"] else words
    if not words:
        print(overview(), file=sys.stderr)
        return MISTAKE
    name, *rest = words
    if name in ("-h", "--help", "help"):
        print(overview())
        return DONE
    if name in ("-V", "--version"):
        from llmjax.version import __version__

        print(f"llmjax {__version__}")
        return DONE
    command = find_command(name)
    from llmjax.cli.command import run_command

    with _log_to_stderr():
        run_command(name, command, rest, program)
    return DONE


def find_command(name: str) -> "Command[Any]":
    """The command of this name.

    Raises:
      UserError: there is none; a similar one is suggested.
    """
    if name not in COMMANDS:
        from llmjax.run.config.fields import nearest

        near = SYNONYMS.get(name.lower()) or nearest(name, COMMANDS)
        hint = f"did you mean {near}?" if near else f"choose one of {', '.join(COMMANDS)}"
        raise UserError(name, "no such command", hint)
    module, _, attribute = COMMANDS[name].target.partition(":")
    command: Command[Any] = getattr(importlib.import_module(module), attribute)
    return command


def _as_mistake(error: BaseException, words: Sequence[str]) -> UserError | None:
    """An error of the environment as a UserError: a full disk, too little memory, a missing device.
    None for an internal error."""
    if isinstance(error, OutputError):
        return UserError("standard output", error.strerror or str(error))
    if isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRORS:
        name = error.filename if isinstance(error.filename, str | os.PathLike) else "a file"
        return UserError(name, error.strerror or str(error))
    if not isinstance(error, RuntimeError | AssertionError | MemoryError):
        return None
    from llmjax.parallel.devices import platform_mistake
    from llmjax.parallel.memory import FEWER, memory_mistake

    command = next((word for word in words if word in COMMANDS), None)
    advice = None if command is None else find_command(command).memory
    return memory_mistake(error, advice or FEWER) or platform_mistake(error)


def _report_mistake(error: UserError) -> int:
    for problem in getattr(error, "problems", None) or [str(error)]:
        _log_line(f"error: {problem}")
    return exit_code(error)


def _log_line(text: str) -> None:
    """Prints a line to stderr, with unprintable characters escaped."""
    with contextlib.suppress(OSError, ValueError):  # if stderr is closed, the exit code remains
        print(f"llmjax: {printable(text)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Logs llmjax's messages as plain lines to stderr, whatever libraries do to the root logger."""
    logger, handler = logging.getLogger("llmjax"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("llmjax: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
