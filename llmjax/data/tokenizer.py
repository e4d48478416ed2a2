"""One protocol for every tokenizer: text to ids and back, to the byte."""

import codecs
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llmjax.data.config import (
    BytesConfig,
    HuggingFaceTokenizerConfig,
    SentencePieceConfig,
    TokenizerConfig,
)
from llmjax.data.files import make_folder
from llmjax.errors import UserError

FORMAT = 1
DESCRIPTION = "llmjax_tokenizer.json"


class Tokenizer(Protocol):
    """Text <-> ids. Encoding adds no special token, and text that spells one stays text."""

    @property
    def vocab_size(self) -> int:
        """Ids are 0 ... vocab_size - 1."""

    @property
    def bos_id(self) -> int:
        """The input before a document's first token. Equals eos_id where a model has only one."""

    @property
    def eos_id(self) -> int:
        """Ends every document."""

    @property
    def pad_id(self) -> int:
        """Fills rows; its weight is always zero."""

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

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; broken UTF-8 becomes U+FFFD."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact UTF-8 bytes of `ids`; b"" for special tokens."""

    def piece_bytes(self, token: int) -> bytes:
        """The bytes that the id `token` adds in the midst of a text."""

    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: how many bytes of text each id stands for; 0 for special tokens."""

    def save(self, folder: Path | str) -> None:
        """Writes all that `load_tokenizer` needs."""


class TableTokenizer:
    """What follows from a table of each id's bytes."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        special_tokens: dict[str, int],
        ids: tuple[int, int, int],
        description: dict[str, Any],
        files: dict[str, bytes],
        leading_space: bool = False,
    ):
        """Args:
        pieces: the bytes of every id.
        special_tokens: name -> id.
        ids: those of BOS, EOS and padding.
        description: JSON that tells `load_tokenizer` what this is.
        files: what else it needs: name -> content.
        leading_space: encoding puts a space before the text; decoding takes it off again.
        """
        self._pieces = list(pieces)
        self.special_tokens = dict(special_tokens)
        self.bos_id, self.eos_id, self.pad_id = ids
        self.vocab_size = len(pieces)
        self._leading_space = leading_space
        self._files = dict(files)
        self._description = {"format": FORMAT, **description}
        digest = hashlib.blake2b(json.dumps(self._description, sort_keys=True).encode())
        for name in sorted(files):
            digest.update(f"\0{name}\0{len(files[name])}\0".encode() + files[name])
        self.fingerprint = digest.hexdigest()[:32]

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        data = b"".join(map(self._pieces.__getitem__, ids))
        return data.removeprefix(b" ") if self._leading_space else data

    def piece_bytes(self, token: int) -> bytes:
        return self._pieces[token]

    def token_bytes(self) -> np.ndarray:
        lengths = np.array([len(piece) for piece in self._pieces], np.int32)
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    def save(self, folder: Path | str) -> None:
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            if load_tokenizer(folder).fingerprint != self.fingerprint:
                raise UserError(folder, "holds another tokenizer", "choose another folder")
            return
        description = self._description | {"fingerprint": self.fingerprint}

        def fill(place: Path) -> None:
            for name, content in self._files.items():
                (place / name).write_bytes(content)
            (place / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")

        make_folder(folder, fill)


class BytesTokenizer(TableTokenizer):
    """Id = byte, for 0 ... 255; then special tokens, eight so that the vocabulary divides by 8."""

    def __init__(self) -> None:
        names = ["<pad>", "<bos>", "<eos>", "<mask>", *(f"<reserved{i}>" for i in range(4))]
        specials = {name: 256 + i for i, name in enumerate(names)}
        pieces = [bytes([i]) for i in range(256)] + [b""] * len(names)
        super().__init__(pieces, specials, (257, 258, 256), {"kind": "bytes"}, {})

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(utf8(text)) for text in texts]


class TextDecoder:
    """Ids to text one at a time, never emitting a broken character."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that the id completes; "" while a character is incomplete."""
        return self._decoder.decode(self._tokenizer.piece_bytes(int(token)))

    def flush(self) -> str:
        """What is left: U+FFFD for an incomplete character. The decoder may be used again."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of `text`.

    Raises:
      UserError: it holds half a surrogate pair, which UTF-8 cannot spell.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"text {text[error.start : error.start + 20]!r}",
            f"character {error.start} is half a surrogate pair, which UTF-8 cannot spell",
            "replace it",
        ) from error


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Reads back what a tokenizer's `save` wrote (a run's tokenizer/ folder).

    Raises:
      UserError: there is no tokenizer, it is of another format, or it is damaged.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise UserError(folder, "holds no tokenizer", "give a folder that `tokenizer train` wrote")
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
        kind, version = description["kind"], description["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(folder / DESCRIPTION, f"is damaged: {error}", "restore the file") from error
    if version != FORMAT:
        raise UserError(folder, f"is of format {version}, this version reads {FORMAT}", "upgrade")
    tokenizer: Tokenizer
    if kind == "bytes":
        tokenizer = BytesTokenizer()
    elif kind == "sentencepiece":
        from llmjax.data.sentencepiece_tokenizer import MODEL_FILE, SentencePieceTokenizer

        tokenizer = SentencePieceTokenizer.from_file(folder / MODEL_FILE)
    elif kind == "huggingface":
        from llmjax.data.huggingface_tokenizer import HuggingFaceTokenizer

        tokenizer = HuggingFaceTokenizer.from_folder(folder, description)
    else:
        raise UserError(folder, f"holds a tokenizer of unknown kind {kind!r}", "upgrade")
    if tokenizer.fingerprint != description["fingerprint"]:
        raise UserError(folder, "the tokenizer's files were changed", "restore them")
    return tokenizer


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
