"""One protocol for every tokenizer: text to ids and back, to the byte."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from llmjax.data.config import (
    BytesConfig,
    HuggingFaceTokenizerConfig,
    SentencePieceConfig,
    TokenizerConfig,
)
from llmjax.data.table_tokenizer import (
    CHAT_TEMPLATE,
    DESCRIPTION,
    FORMAT,
    TEMPLATE_SIZE,
    BytesTokenizer,
    TableTokenizer,
    utf8,
)
from llmjax.data.text_stream import BytesStream, TextStream
from llmjax.errors import UserError
from llmjax.storage import read_json, read_text

__all__ = [
    "CHAT_TEMPLATE",
    "DESCRIPTION",
    "BytesTokenizer",
    "StreamsText",
    "TableTokenizer",
    "TextDecoder",
    "Tokenizer",
    "existing_tokenizer",
    "load_tokenizer",
    "utf8",
]


class Tokenizer(Protocol):
    """Text <-> ids. `encode` adds no special token, and text that spells one stays text."""

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
        """Each of them ends a written text; eos_id is the first."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """What the model expects before a text, such as BOS."""

    @property
    def suffix(self) -> tuple[int, ...]:
        """What the model expects behind a whole text, such as a separator."""

    @property
    def chat_template(self) -> str | None:
        """How messages are spelt, as a Jinja template; None where there is none."""

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

        What spells a part of a character has the whole of it; spaces before a word may be the
        word's or nobody's."""

    def encode_marked(self, text: str) -> list[int]:
        """As encode, but what spells a special token becomes that token."""

    def wrap(
        self, ids: Sequence[int], pair: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """What the model reads of a text, or of a pair of texts: tokens and their segment types."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; broken UTF-8 becomes U+FFFD."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact UTF-8 bytes of `ids`; b"" for special tokens.

        Where the tokens of a tokenizer do not each spell bytes, those of `decode`."""

    def piece_bytes(self, token: int) -> bytes:
        """The bytes that the id `token` adds in the midst of a text."""

    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: how many bytes of text each id stands for; 0 for special tokens."""

    def save(self, folder: Path | str) -> None:
        """Writes all that `load_tokenizer` needs."""


@runtime_checkable
class StreamsText(Protocol):
    """A tokenizer whose tokens stand for more or less text depending on their neighbours."""

    def text_stream(self, after: Sequence[int] | None) -> TextStream:
        """A text whose tokens come one at a time.

        Args:
          after: the tokens before, whose text is not given again; () where there are some but it
            is not known which; None for a text of its own.
        """


class TextDecoder:
    """Ids to text one at a time, never emitting a broken character.

    Of a text of its own, `push` and `flush` together give what the tokenizer's `decode` gives for
    the ids; of the rest of a text, what decoding all of it gives beyond decoding `after`.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] | None = None):
        """Args:
        tokenizer: of the ids.
        after: see StreamsText.
        """
        self._tokenizer = tokenizer
        self._stream = self._begin(after)

    def push(self, token: int) -> str:
        """The text that is sure now; "" while a character is incomplete."""
        return self._stream.push(int(token))

    def flush(self) -> str:
        """What is left: U+FFFD for an incomplete character. The next id begins another text."""
        rest, self._stream = self._stream.flush(), self._begin(None)
        return rest

    def _begin(self, after: Sequence[int] | None) -> TextStream:
        if isinstance(self._tokenizer, StreamsText):
            return self._tokenizer.text_stream(after)
        return BytesStream(self._tokenizer, own=after is None)


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Reads back what a tokenizer's `save` wrote (a run's tokenizer/ folder).

    Raises:
      UserError: there is no tokenizer, it is of another format, or it is damaged.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise UserError(folder, "holds no tokenizer", "give a folder that `tokenizer train` wrote")
    try:
        description = read_json(folder / DESCRIPTION)
        kind, version = description["kind"], description["format"]
    except UserError as error:
        reason = f"is damaged: {error.reason}"
        raise UserError(folder / DESCRIPTION, reason, "restore the file") from error
    except (KeyError, TypeError) as error:
        raise UserError(folder / DESCRIPTION, f"is damaged: {error}", "restore the file") from error
    if version != FORMAT:
        raise UserError(folder, f"is of format {version}, this version reads {FORMAT}", "upgrade")
    template = _chat_template(folder / CHAT_TEMPLATE)
    tokenizer: Tokenizer
    if kind == "bytes":
        tokenizer = BytesTokenizer(chat_template=template)
    elif kind == "sentencepiece":
        from llmjax.data.sentencepiece_tokenizer import MODEL_FILE, SentencePieceTokenizer

        tokenizer = SentencePieceTokenizer.from_file(folder / MODEL_FILE, template)
    elif kind == "huggingface":
        from llmjax.data.huggingface_tokenizer import HuggingFaceTokenizer

        tokenizer = HuggingFaceTokenizer.from_folder(folder, description, template)
    else:
        raise UserError(folder, f"holds a tokenizer of unknown kind {kind!r}", "upgrade")
    if tokenizer.fingerprint != description.get("fingerprint"):
        raise UserError(folder, "the tokenizer's files were changed", "restore them")
    return tokenizer


def _chat_template(path: Path) -> str | None:
    if not path.is_file():
        return None
    return read_text(path, TEMPLATE_SIZE, fix="fix or remove it")


def existing_tokenizer(config: TokenizerConfig) -> Tokenizer | None:
    """The tokenizer of `config`; None where it has yet to be trained.

    Raises:
      UserError: a file that it names is missing or cannot be read.
    """
    match config:
        case BytesConfig():
            return BytesTokenizer()
        case HuggingFaceTokenizerConfig():
            from llmjax.data.huggingface_tokenizer import HuggingFaceTokenizer

            return HuggingFaceTokenizer.from_config(config)
        case SentencePieceConfig(path=str(path)):
            from llmjax.data.sentencepiece_tokenizer import SentencePieceTokenizer

            return SentencePieceTokenizer.from_file(Path(path).expanduser())
        case SentencePieceConfig():
            return None
