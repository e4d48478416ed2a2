"""The command line: verbs that parse, call a function of the same name, and print.

    0 done   1 a fault of ours, or another process died   2 the user's mistake
    75 stopped by a signal, and the same command goes on   130 interrupted without saving

Results go to stdout, all else to stderr. Nothing heavy is imported before a verb is chosen.
"""

import contextlib
import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from llmjax.cli.streams import OutputError, drop_output, finish_output, hold_standard_streams
from llmjax.errors import DONE, FAULT, INTERRUPTED, MISTAKE, STOPPED, Stopped, UserError, printable

VERBS = {
    "train": "train a model, or go on where its run folder stands",
    "evaluate": "loss, perplexity and bits per byte of held-out text or of any file",
    "predict": "what a fine-tuned model says of the rows of a table",
    "choose": "multiple choice by likelihood, without training for it",
    "harness": "tasks of EleutherAI's lm-evaluation-harness",
    "generate": "text that follows prompts, written as it comes",
    "chat": "a conversation in the terminal, by the model's own template",
    "fill-mask": "what a masked model would put in the place of its mask",
    "embed": "lines of text as vectors",
    "compress": "any bytes into an archive, lossless, by a run's model",
    "decompress": "the very same bytes back",
    "inspect": "an archive's header, without the model",
    "import": "a Hugging Face folder or a GGUF file as a run folder",
    "export": "a run as a Hugging Face folder, a GGUF file or StableHLO programs",
    "report": "a run as one offline HTML page",
    "tokenizer": "train a tokenizer on text",
}

# Verbs that Python would not take for a module's name.
MODULES = {"import": "import_run", "fill-mask": "fill_mask"}

SURROUNDINGS = {
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
"""Errors of the system that are no fault of ours wherever they come from."""


def overview() -> str:
    """What `llmjax --help` prints."""
    lines = [f"  {verb:11}{about}" for verb, about in VERBS.items()]
    return "\n".join(
        [
            "usage: llmjax VERB ...",
            "",
            "Language models in JAX: train them, evaluate them, let them write.",
            "",
            *lines,
            "",
            "llmjax VERB --help shows every field of a verb with its default and meaning;",
            "llmjax --version, the version. First run: llmjax train quickstart",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, and raises nothing.

    Args:
      argv: the words after `llmjax`; None for those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    hold_standard_streams()
    code = _outcome(words, debug="--debug" in words)
    try:
        finish_output()
    except BrokenPipeError:
        drop_output()  # who reads our output has seen enough (`| head`)
    except OutputError as error:
        drop_output()
        if code == DONE:
            return _mistakes(UserError("standard output", error.strerror or str(error)))
    return code


def _outcome(words: list[str], debug: bool) -> int:
    """Runs a command line and tells what went wrong; returns the exit code."""
    try:
        return _dispatch(words)
    except UserError as error:
        if debug:
            traceback.print_exc()
        return _mistakes(error)
    except Stopped as stop:
        _say(str(stop))
        return STOPPED
    except BrokenPipeError:
        drop_output()
        return DONE
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 (every fault ends in one line)
        if debug:
            traceback.print_exc()
        if mistake := _mistake(error, words):
            return _mistakes(mistake)
        return _failure(error, "" if debug else "; rerun with --debug for the traceback")


def _failure(error: BaseException, hint: str) -> int:
    """Tells of what nobody has foreseen: a surrounding that fails, or a fault of ours."""
    if isinstance(error, OutputError):
        return _mistakes(UserError("standard output", error.strerror or str(error)))
    if isinstance(error, OSError) and error.errno in SURROUNDINGS:
        name = error.filename if isinstance(error.filename, str | os.PathLike) else "a file"
        return _mistakes(UserError(name, error.strerror or str(error)))
    what = " ".join(f"{type(error).__name__}: {error}".split())
    _say(f"fault: {what[:500]}{hint}")
    return FAULT


def _mistakes(error: UserError) -> int:
    for problem in getattr(error, "problems", None) or [str(error)]:
        _say(f"error: {problem}")
    return MISTAKE


def _say(text: str) -> None:
    """A line on stderr; what does not print, such as half of a name that is not UTF-8, escaped."""
    with contextlib.suppress(OSError, ValueError):  # the exit code counts, also where nobody reads
        print(f"llmjax: {printable(text)}", file=sys.stderr, flush=True)


def _mistake(error: BaseException, words: Sequence[str]) -> UserError | None:
    """What the user can do about a failure of JAX: a device that is not here, too little memory."""
    if not isinstance(error, RuntimeError | AssertionError | MemoryError):
        return None
    from llmjax.parallel.devices import platform_mistake
    from llmjax.parallel.memory import FEWER, LOADING, TRAINING, memory_mistake

    verbs = [word for word in words if word in VERBS]
    advice = {"train": TRAINING, "import": LOADING, "export": LOADING}.get(
        "".join(verbs[:1]), FEWER
    )
    return memory_mistake(error, advice) or platform_mistake(error)


def _dispatch(words: list[str]) -> int:
    words = [word for word in words if word != "--debug"] if words[:1] == ["--debug"] else words
    if not words:
        print(overview(), file=sys.stderr)
        return MISTAKE
    verb, *rest = words
    if verb in ("-h", "--help", "help"):
        print(overview())
        return DONE
    if verb in ("-V", "--version"):
        from llmjax.version import __version__

        print(f"llmjax {__version__}")
        return DONE
    if verb not in VERBS:
        from difflib import get_close_matches

        near = get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(VERBS)}"
        raise UserError(verb, "no such verb", hint)
    module = importlib.import_module(f"llmjax.cli.{MODULES.get(verb, verb)}")
    with _log_to_stderr():
        code: int = module.main(rest)
    return code


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Our own log as plain lines on stderr, whatever a library does to the root logger."""
    logger, handler = logging.getLogger("llmjax"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("llmjax: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
