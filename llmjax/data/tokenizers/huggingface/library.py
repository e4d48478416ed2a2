"""The `tokenizers` library: deterministic encoding, and its errors as UserErrors."""

import json
import os
import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import tokenizers

from llmjax.data.tokenizers.huggingface.file import NOT_A_TOKENIZER, WRONG_FORM, steps_of
from llmjax.errors import UserError

NESTED = re.compile(r"\([^()]*[*+}][^()]*\)[*+{]")
"""A nested repetition, with which a regular expression may take exponential time."""


def open_tokenizer(content: bytes) -> tokenizers.Tokenizer:
    """Opens a tokenizer.json without truncation, padding, and dropout of merges, which a file may
    still enable from its training (Provilkov et al. 2019, arXiv:1910.13267)."""
    inner = tokenizers.Tokenizer.from_str(content.decode("utf-8-sig"))
    inner.no_truncation()
    inner.no_padding()
    if isinstance(inner.model, tokenizers.models.BPE):
        inner.model.dropout = None
    return inner


def library_decoder(steps: Sequence[Mapping[str, Any]]) -> tokenizers.decoders.Decoder:
    """The library's decoder of these steps."""
    spec = {
        "version": "1.0",
        "added_tokens": [],
        "decoder": {"type": "Sequence", "decoders": [dict(step) for step in steps]},
        "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""},
    }
    return tokenizers.Tokenizer.from_str(json.dumps(spec)).decoder


class TranslatedErrors:
    """Context manager that turns the library's exceptions into a UserError.

    The library raises bare Exceptions. Where it panics, as for a regular expression that takes too
    long, the exception is not even an Exception, and its class cannot be imported.
    """

    def __init__(
        self,
        where: object,
        problem: str = NOT_A_TOKENIZER,
        *,
        fix: str = "check the path",
        kinds: tuple[type[Exception], ...] = WRONG_FORM,
    ):
        """Args:
        where: the file, for messages.
        problem: reason of the UserError.
        fix: of the UserError.
        kinds: further exceptions to translate.
        """
        self._where, self._problem, self._fix, self._kinds = where, problem, fix, kinds

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, UserError):
            return
        if issubclass(kind, self._kinds) or kind is Exception or kind.__name__ == "PanicException":
            reason = f"{self._problem}: {str(error)[:200]!r}"
            raise UserError(self._where, reason, self._fix) from error


def hidden_panics(spec: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Hides the library's report of a panic on stderr, for a tokenizer.json that may cause one."""
    steps = [
        step
        for key in ("normalizer", "pre_tokenizer", "decoder")
        for step in steps_of(spec.get(key))
    ]
    patterns = [step.get("pattern") for step in steps]
    texts = [pattern.get("Regex") or "" for pattern in patterns if isinstance(pattern, Mapping)]
    return _BufferedStderr() if any(map(NESTED.search, texts)) else nullcontext()


class _BufferedStderr(AbstractContextManager[None]):
    """Buffers standard error, and discards it after a panic."""

    _one_at_a_time = threading.Lock()

    def __enter__(self) -> None:
        self._one_at_a_time.acquire()
        self._buffer = tempfile.TemporaryFile()
        self._stderr = os.dup(2)
        os.dup2(self._buffer.fileno(), 2)

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.dup2(self._stderr, 2)
        os.close(self._stderr)
        with self._buffer as buffer:
            if kind is None or kind.__name__ != "PanicException":
                buffer.seek(0)
                os.write(2, buffer.read())
        self._one_at_a_time.release()
