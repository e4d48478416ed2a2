"""One protocol for every tokenizer: text to ids and back, to the byte."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llmjax.data.config import (
    BytesConfig,
    HuggingFaceTokenizerConfig,
    SentencePieceConfig,
    TokenizerConfig,
)
from llmjax.data.tokenizers.table import (
    CHAT_TEMPLATE,
    DESCRIPTION,
    FILES,
    FORMAT,
    TEMPLATE_SIZE,
    BytesTokenizer,
    TableTokenizer,
    description_text,
    file_sum,
    utf8,
)
from llmjax.data.tokenizers.text_stream import BytesStream, TextStream
from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes, read_text
from llmjax.storage.json_documents import DOCUMENT, read_json
from llmjax.storage.seals import SEAL, unsealed
from llmjax.storage.writing import write_atomically

__all__ = [
    "CHAT_TEMPLATE",
    "DESCRIPTION",
    "BytesTokenizer",
    "StreamsText",
    "TableTokenizer",
    "TextDecoder",
    "Tokenizer",
    "existing_tokenizer",
    "keep_chat_template",
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
    description = _description(folder)
    template = _chat_template(folder / CHAT_TEMPLATE)
    tokenizer: Tokenizer
    if description["kind"] == "bytes":
        tokenizer = BytesTokenizer(chat_template=template)
    elif description["kind"] == "sentencepiece":
        from llmjax.data.tokenizers.sentencepiece import MODEL_FILE, SentencePieceTokenizer

        tokenizer = SentencePieceTokenizer.from_file(folder / MODEL_FILE, template)
    else:
        from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer

        tokenizer = HuggingFaceTokenizer.from_folder(folder, description, template)
    if tokenizer.fingerprint != description["fingerprint"]:
        raise UserError(folder, "the tokenizer's files were changed", "restore them")
    return tokenizer


def _description(folder: Path) -> dict[str, Any]:
    """The description of the tokenizer in a folder, whose files are as it says."""
    path = folder / DESCRIPTION
    try:
        stored = read_json(path)
        kind, version = stored["kind"], stored["format"]
    except UserError as error:
        raise UserError(path, f"is damaged: {error.reason}", "restore the file") from error
    except (KeyError, TypeError) as error:
        raise UserError(path, f"is damaged: {error}", "restore the file") from error
    if version != FORMAT:
        raise UserError(folder, f"is of format {version}, this version reads {FORMAT}", "upgrade")
    if kind not in ("bytes", "sentencepiece", "huggingface"):
        raise UserError(folder, f"holds a tokenizer of unknown kind {kind!r}", "upgrade")
    description = unsealed(stored, path)
    if not isinstance(description.get("fingerprint"), str):
        raise UserError(path, "is damaged: it has no fingerprint", "restore the file")
    if SEAL in stored:  # else an older version wrote it, or somebody changed it on purpose
        _verify(folder, description.get(FILES))
    return description


def _verify(folder: Path, expected: object) -> None:
    """Refuses a file that is missing or was changed, and a chat template that was added."""
    if not isinstance(expected, dict):
        raise UserError(folder / DESCRIPTION, "lists no files", "restore the file")
    template = [CHAT_TEMPLATE] if (folder / CHAT_TEMPLATE).exists() else []
    for name in dict.fromkeys([*expected, *template]):
        if file_sum(read_bytes(folder / name, DOCUMENT.size)) != expected.get(name):
            fix = "restore them"
            if name == CHAT_TEMPLATE:
                fix += f' or, if the change is meant, remove "{SEAL}" from {DESCRIPTION}'
            raise UserError(folder, f"the tokenizer's files were changed: {name}", fix)


def _chat_template(path: Path) -> str | None:
    return read_text(path, TEMPLATE_SIZE, fix="fix or remove it") if path.is_file() else None


def keep_chat_template(folder: Path, template: str) -> None:
    """Writes the chat template of a saved tokenizer that has none.

    Raises:
      UserError: there is no sound tokenizer.
      OSError: the folder cannot be written.
    """
    description = _description(folder)
    # Without the description's checksum, a process that is killed in between leaves a sound folder.
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    write_atomically(folder / CHAT_TEMPLATE, template)
    sums = {**description.get(FILES, {}), CHAT_TEMPLATE: file_sum(template.encode("utf-8"))}
    write_atomically(folder / DESCRIPTION, description_text(description, sums))


def existing_tokenizer(config: TokenizerConfig) -> Tokenizer | None:
    """The tokenizer of `config`; None where it has yet to be trained.

    Raises:
      UserError: a file that it names is missing or cannot be read.
    """
    match config:
        case BytesConfig():
            return BytesTokenizer()
        case HuggingFaceTokenizerConfig():
            from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer

            return HuggingFaceTokenizer.from_config(config)
        case SentencePieceConfig(path=str(path)):
            from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer

            return SentencePieceTokenizer.from_file(Path(path).expanduser())
        case SentencePieceConfig():
            return None
