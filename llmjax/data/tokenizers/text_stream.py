"""Text as its tokens come: what is sure is given at once, and nothing is taken back."""

import codecs
from collections.abc import Iterable
from typing import Protocol


class TextStream(Protocol):
    """One text in the making."""

    def push(self, token: int) -> str:
        """Takes the next token; the text that is sure now."""

    def flush(self) -> str:
        """There are no more tokens; the rest of the text."""


class Spells(Protocol):
    """What is needed of a tokenizer whose tokens each stand for bytes of their own."""

    def piece_bytes(self, token: int) -> bytes:
        """As Tokenizer's."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """As Tokenizer's."""


class BytesStream:
    """The text of tokens that each stand for bytes; whole characters at a time."""

    def __init__(self, tokenizer: Spells, *, own: bool):
        """`own`: a text of its own, not the rest of one."""
        self._tokenizer, self._opens = tokenizer, own
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        data = self._tokenizer.piece_bytes(token)
        text = self._characters.decode(data)
        if self._opens and data:
            # Some tokenizers put a space before every text, which is not part of it.
            self._opens = False
            if self._tokenizer.decode_bytes([token]) != data:
                text = text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """U+FFFD for an incomplete character."""
        return self._characters.decode(b"", final=True)
