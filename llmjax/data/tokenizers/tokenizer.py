"""The tokenizer interface, and incremental decoding."""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from llmjax.errors import UserError


class Tokenizer(Protocol):
    """Text <-> ids. `encode` adds no special tokens, and treats their names in a text as text."""

    @property
    def vocab_size(self) -> int:
        """Ids are 0 ... vocab_size - 1."""

    @property
    def bos_id(self) -> int:
        """The input before a document's first token; the start token of an encoder-decoder's
        decoder. Equals eos_id if a model has only one of the two."""

    @property
    def eos_id(self) -> int:
        """Ends every document."""

    @property
    def pad_id(self) -> int:
        """Fills rows; its weight is always zero."""

    @property
    def mask_id(self) -> int | None:
        """The mask token of masked models, if any."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end generated text; eos_id is the first."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """Tokens that the model expects before a text, such as BOS."""

    @property
    def suffix(self) -> tuple[int, ...]:
        """Tokens that the model expects after a complete text, such as a separator."""

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that formats messages, if any."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """Name -> id of the tokens that do not stand for text."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that encoding and decoding depend on."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, as by `encode`."""

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of `text`, and the characters of each: text[first:end].

        A token for part of a character spans the whole character; a space before a word may belong
        to the word or to no token."""

    def encode_marked(self, text: str) -> list[int]:
        """As `encode`, but names of special tokens become these tokens."""

    def wrap(
        self, ids: Sequence[int], pair: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Adds special tokens around one or two texts; returns tokens and segment types."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact UTF-8 bytes of `ids`; b"" for special tokens.

        If a tokenizer's tokens do not each stand for bytes, the bytes of `decode`."""

    def piece_bytes(self, token: int) -> bytes:
        """The bytes that a token adds within a text."""

    def token_bytes(self) -> np.ndarray:
        """Number of bytes of text of each id, int32 [vocab_size]; 0 for special tokens."""

    def save(self, folder: Path | str) -> None:
        """Writes a folder that `load_tokenizer` reads."""


class TextStream(Protocol):
    """Decodes the tokens of one text as they come; emitted text is never revised."""

    def push(self, token: int) -> str:
        """Takes the next token; returns the text that is now certain."""

    def flush(self) -> str:
        """Ends the text; returns the rest of it."""


@runtime_checkable
class StreamsText(Protocol):
    """A tokenizer whose tokens' text depends on their neighbours."""

    def text_stream(self, after: Sequence[int] | None) -> TextStream:
        """Decodes the tokens of a text as they come.

        Args:
          after: the preceding tokens, whose text is not emitted; () if there are some but they are
            not known; None at the start of a text.
        """


class PieceBytes(Protocol):
    """The part of a tokenizer that BytesStream needs; its tokens each stand for bytes."""

    def piece_bytes(self, token: int) -> bytes:
        """See Tokenizer."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """See Tokenizer."""


class BytesStream:
    """Decodes tokens that each stand for bytes, emitting complete characters."""

    def __init__(self, tokenizer: PieceBytes, *, at_start: bool):
        """`at_start`: whether the tokens begin a text rather than continue one."""
        self._tokenizer, self._at_start = tokenizer, at_start
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        data = self._tokenizer.piece_bytes(token)
        text = self._characters.decode(data)
        if self._at_start and data:
            # Some tokenizers add a space before every text.
            self._at_start = False
            if self._tokenizer.decode_bytes([token]) != data:
                text = text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """U+FFFD for an incomplete character."""
        return self._characters.decode(b"", final=True)


class TextDecoder:
    """Incremental decoder that never emits an incomplete character.

    At the start of a text, the output of `push` and `flush` adds up to that of the tokenizer's
    `decode`; after other tokens, to what decoding everything adds to decoding `after`.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] | None = None):
        """`after`: see StreamsText."""
        self._tokenizer = tokenizer
        self._stream = self._open(after)

    def push(self, token: int) -> str:
        """Takes the next token; returns the text that is now certain, "" within a character."""
        return self._stream.push(int(token))

    def flush(self) -> str:
        """Returns the rest, U+FFFD for an incomplete character. The next id begins a new text."""
        rest, self._stream = self._stream.flush(), self._open(None)
        return rest

    def _open(self, after: Sequence[int] | None) -> TextStream:
        if isinstance(self._tokenizer, StreamsText):
            return self._tokenizer.text_stream(after)
        return BytesStream(self._tokenizer, at_start=after is None)


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of `text`.

    Raises:
      UserError: it contains half a surrogate pair, which UTF-8 cannot encode.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"text {text[error.start : error.start + 20]!r}",
            f"character {error.start} is half a surrogate pair, which UTF-8 cannot encode",
            "replace it",
        ) from error
