"""What every tokenizer offers: text to ids and back, to the byte."""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from llmjax.errors import UserError


class Tokenizer(Protocol):
    """Text <-> ids. `encode` adds no special token, and text that reads like one stays text."""

    @property
    def vocab_size(self) -> int:
        """Ids are 0 ... vocab_size - 1."""

    @property
    def bos_id(self) -> int:
        """The input before a document's first token. Equals eos_id where a model has only one; what
        the decoder of an encoder-decoder starts from."""

    @property
    def eos_id(self) -> int:
        """Ends every document."""

    @property
    def pad_id(self) -> int:
        """Fills rows; its weight is always zero."""

    @property
    def mask_id(self) -> int | None:
        """Stands for what a masked model fills in; None where there is no such token."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Each of them ends generated text; eos_id is the first."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """What the model expects before a text, such as BOS."""

    @property
    def suffix(self) -> tuple[int, ...]:
        """What the model expects behind a complete text, such as a separator."""

    @property
    def chat_template(self) -> str | None:
        """How messages are formatted, as a Jinja template; None where there is none."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """Name -> id of every token that stands for no text."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that encoding and decoding depend on."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of every text; equals `encode` of each."""

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of `text`, and which characters each stands for: text[first:end].

        A token for part of a character has the whole of it; spaces before a word may be the word's
        or nobody's."""

    def encode_marked(self, text: str) -> list[int]:
        """As encode, but the name of a special token becomes that token."""

    def wrap(
        self, ids: Sequence[int], pair: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """What the model reads of a text, or of a pair of texts: tokens and their segment types."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; broken UTF-8 becomes U+FFFD."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact UTF-8 bytes of `ids`; b"" for special tokens.

        Where a tokenizer's tokens do not each stand for bytes, those of `decode`."""

    def piece_bytes(self, token: int) -> bytes:
        """The bytes that the id `token` adds in the midst of a text."""

    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: how many bytes of text each id stands for; 0 for special tokens."""

    def save(self, folder: Path | str) -> None:
        """Writes all that `load_tokenizer` needs."""


class TextStream(Protocol):
    """One text whose tokens come one at a time; text that was given is never taken back."""

    def push(self, token: int) -> str:
        """Takes the next token; the text that is certain now."""

    def flush(self) -> str:
        """There are no more tokens; the rest of the text."""


@runtime_checkable
class StreamsText(Protocol):
    """A tokenizer whose tokens stand for more or less text depending on their neighbours."""

    def text_stream(self, after: Sequence[int] | None) -> TextStream:
        """A text whose tokens come one at a time.

        Args:
          after: the tokens before, whose text is not given again; () where there are some but it
            is not known which; None at the start of a text.
        """


class PieceBytes(Protocol):
    """The part of a tokenizer that BytesStream needs; its tokens each stand for bytes."""

    def piece_bytes(self, token: int) -> bytes:
        """As Tokenizer's."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """As Tokenizer's."""


class BytesStream:
    """The text of tokens that each stand for bytes; whole characters at a time."""

    def __init__(self, tokenizer: PieceBytes, *, at_start: bool):
        """`at_start`: the tokens begin a text, rather than continue one."""
        self._tokenizer, self._at_start = tokenizer, at_start
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        data = self._tokenizer.piece_bytes(token)
        text = self._characters.decode(data)
        if self._at_start and data:
            # Some tokenizers put a space before every text, which is not part of it.
            self._at_start = False
            if self._tokenizer.decode_bytes([token]) != data:
                text = text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """U+FFFD for an incomplete character."""
        return self._characters.decode(b"", final=True)


class TextDecoder:
    """Ids to text one at a time, never emitting a broken character.

    At the start of a text, `push` and `flush` together give what the tokenizer's `decode` gives for
    the ids; in the rest of one, what decoding all of it gives beyond decoding `after`.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] | None = None):
        """`after`: see StreamsText."""
        self._tokenizer = tokenizer
        self._stream = self._open(after)

    def push(self, token: int) -> str:
        """The text that is certain now; "" while a character is incomplete."""
        return self._stream.push(int(token))

    def flush(self) -> str:
        """The rest: U+FFFD for an incomplete character. The next id begins another text."""
        rest, self._stream = self._stream.flush(), self._open(None)
        return rest

    def _open(self, after: Sequence[int] | None) -> TextStream:
        if isinstance(self._tokenizer, StreamsText):
            return self._tokenizer.text_stream(after)
        return BytesStream(self._tokenizer, at_start=after is None)


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of `text`.

    Raises:
      UserError: it holds half a surrogate pair, which UTF-8 cannot encode.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"text {text[error.start : error.start + 20]!r}",
            f"character {error.start} is half a surrogate pair, which UTF-8 cannot encode",
            "replace it",
        ) from error
