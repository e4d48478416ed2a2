"""The report that Rust prints when the tokenizers library breaks off, kept off the terminal.

It goes to the process's standard error, past Python, and has a hundred lines under RUST_BACKTRACE;
what a user needs to know is in the exception.
"""

import os
import re
import tempfile
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from llmjax.data.tokenizers.huggingface.pieces import steps_of

NESTED = re.compile(r"\([^()]*[*+}][^()]*\)[*+{]")
"""A repetition within a repetition: what takes a regular expression exponential time."""


def unreported(spec: Mapping[str, Any]) -> AbstractContextManager[None]:
    """For calls with a tokenizer.json: hides the report of a panic, where one is to be expected."""
    steps = [
        step
        for key in ("normalizer", "pre_tokenizer", "decoder")
        for step in steps_of(spec.get(key))
    ]
    patterns = [step.get("pattern") for step in steps]
    texts = [pattern.get("Regex") or "" for pattern in patterns if isinstance(pattern, Mapping)]
    return _Unreported() if any(map(NESTED.search, texts)) else nullcontext()


class _Unreported(AbstractContextManager[None]):
    """Holds back what is written to standard error; a panic drops it."""

    _one_at_a_time = threading.Lock()

    def __enter__(self) -> None:
        self._one_at_a_time.acquire()
        self._held = tempfile.TemporaryFile()
        self._error = os.dup(2)
        os.dup2(self._held.fileno(), 2)

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.dup2(self._error, 2)
        os.close(self._error)
        with self._held as held:
            if kind is None or kind.__name__ != "PanicException":
                held.seek(0)
                os.write(2, held.read())
        self._one_at_a_time.release()
