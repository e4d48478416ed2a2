"""The file tokenizer.json: read within limits, opened by the library that wrote it."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import tokenizers

from llmjax.data.tokenizers.limits import FILE_SIZE, check_limits
from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes
from llmjax.storage.json_documents import DOCUMENT, parse_json

TOKENIZER_FILE = "tokenizer.json"
PROBLEM = "is not a tokenizer.json"
FORM = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What Python raises over a file of another form."""


class Refusal:
    """Turns what is raised over a file that is no good tokenizer into a UserError.

    The library raises bare Exceptions. Where it breaks off, as it does over a regular expression
    that takes too long, it panics: an exception that is not even an Exception, and has no class
    that could be imported.
    """

    def __init__(
        self,
        where: object,
        problem: str = PROBLEM,
        *,
        fix: str = "check the path",
        kinds: tuple[type[Exception], ...] = FORM,
    ):
        """Args:
        where: the file, for messages.
        problem: what is said of it.
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


def read_tokenizer_json(path: Path) -> bytes:
    """The file's content.

    Raises:
      UserError: it cannot be read, or is too large.
    """
    return read_bytes(path, FILE_SIZE, fix="check the path")


def parse_tokenizer_json(content: bytes, where: object) -> dict[str, Any]:
    """The value of a tokenizer.json that keeps to the limits of tokenizer_limits.

    Raises:
      UserError: it is something else, or asks for more.
    """
    try:
        spec = parse_json(content, where, limits=DOCUMENT)
    except UserError as error:
        raise UserError(where, f"{PROBLEM}: {error.reason}", "check the path") from error
    with Refusal(where):
        check_limits(spec, where)
        dict(spec["model"])
    return dict(spec)


def tokens_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """Spelling -> id of all that a tokenizer.json names."""
    pieces = spec["model"]["vocab"]
    if isinstance(pieces, list):
        pieces = {piece: number for number, (piece, _) in enumerate(pieces)}
    return {**pieces, **{token["content"]: token["id"] for token in spec["added_tokens"]}}


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


def compact(spec: Mapping[str, Any]) -> bytes:
    """A tokenizer.json without needless spaces."""
    return json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()
