"""The command line: verbs that parse, call a function of the same name, and print.

    0 done   1 a fault of ours, or another process died   2 the user's mistake
    75 stopped by a signal, and the same command goes on   130 interrupted without saving

Results go to stdout, all else to stderr. Nothing heavy is imported before a verb is chosen.
"""

import contextlib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from llmjax.errors import DONE, FAULT, INTERRUPTED, MISTAKE, STOPPED, Stopped, UserError

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
    _occupy_stderr()
    debug = "--debug" in words
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except UserError as error:
        if debug:
            traceback.print_exc()
        for problem in getattr(error, "problems", None) or [str(error)]:
            _say(f"error: {problem}")
        return MISTAKE
    except Stopped as stop:
        _say(str(stop))
        return STOPPED
    except BrokenPipeError:
        # Who reads our output has seen enough (`| head`). Python would complain once more when it
        # flushes stdout at exit, so there is nothing left to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 (every fault ends in one line)
        if debug:
            traceback.print_exc()
        if mistake := _mistake(error, words):
            _say(f"error: {mistake}")
            return MISTAKE
        what = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "" if debug else "; rerun with --debug for the traceback"
        _say(f"fault: {what[:500]}{hint}")
        return FAULT


def _occupy_stderr() -> None:
    """Where stderr is closed, what libraries write there must not reach a file of ours that is
    opened under its number."""
    if sys.stderr is None:
        while (number := os.open(os.devnull, os.O_RDWR)) < 2:
            pass
        sys.stderr = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _say(text: str) -> None:
    """A line on stderr; the exit code counts, also where nobody reads that any more."""
    with contextlib.suppress(OSError, ValueError):
        print(f"llmjax: {text}", file=sys.stderr, flush=True)


def _mistake(error: Exception, words: Sequence[str]) -> UserError | None:
    """What the user can do about a failure of JAX: a device that is not here, too little memory."""
    if not isinstance(error, RuntimeError | AssertionError | MemoryError):
        return None
    from llmjax.devices import platform_mistake
    from llmjax.memory import FEWER, LOADING, TRAINING, memory_mistake

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
        from llmjax import __version__

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
