"""The `tokenizers` library, opened for deterministic encoding, its errors made UserErrors."""

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
"""A repetition within a repetition: what takes a regular expression exponential time."""


def open_tokenizer(content: bytes) -> tokenizers.Tokenizer:
    """The library's tokenizer of a file, of which whole texts are asked: it cuts none and fills up
    none, and always encodes a text in the same way, without the `dropout` of merges that a file
    may still name from its training (Provilkov et al. 2019, arXiv:1910.13267)."""
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


class Refusal:
    """Turns what is raised over a file that is no good tokenizer into a UserError.

    The library raises bare Exceptions. Where it breaks off, as it does over a regular expression
    that takes too long, it panics: an exception that is not even an Exception, and has no class
    that could be imported.
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
        problem: the reason in the message.
        fix: what the message advises.
        kinds: what else counts, beside what the library raises.
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
