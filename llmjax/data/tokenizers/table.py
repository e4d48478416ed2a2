"""Tokenizers based on a table from ids to bytes, and the byte tokenizer."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.data.tokenizers.folder import FORMAT, read_description, write_files
from llmjax.data.tokenizers.tokenizer import utf8
from llmjax.errors import UserError
from llmjax.storage.cache_folders import make_folder

FIRST, SECOND = -1, -2  # placeholders of the texts

FramePart = tuple[int, int]  # token (or FIRST or SECOND), segment type


@dataclass(frozen=True)
class Frame:
    """Special tokens around texts.

    Attributes:
      single: special tokens and FIRST in order, each with its segment type.
      pair: the same for two texts, with FIRST and SECOND.
    """

    single: tuple[FramePart, ...] = ((FIRST, 0),)
    pair: tuple[FramePart, ...] = ((FIRST, 0), (SECOND, 1))

    @classmethod
    def starting(cls, bos_id: int) -> "Frame":
        """BOS before each text."""
        before = (bos_id, 0)
        return cls((before, (FIRST, 0)), (before, (FIRST, 0), (bos_id, 1), (SECOND, 1)))

    @property
    def prefix(self) -> tuple[int, ...]:
        """Tokens before a single text."""
        return tuple(token for token, _ in self.single[: self._middle])

    @property
    def suffix(self) -> tuple[int, ...]:
        """Tokens after a single text."""
        return tuple(token for token, _ in self.single[self._middle + 1 :])

    def wrap(
        self, ids: Sequence[int], pair: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Frames a text or a pair of texts; returns tokens and their segment types."""
        rows = list(self._parts(ids, pair))
        tokens = [token for part, _ in rows for token in part]
        return tokens, [kind for part, kind in rows for _ in part]

    @property
    def _middle(self) -> int:
        return [token for token, _ in self.single].index(FIRST)

    def _parts(
        self, ids: Sequence[int], pair: Sequence[int] | None
    ) -> Iterator[tuple[Sequence[int], int]]:
        for token, kind in self.single if pair is None else self.pair:
            if token == FIRST:
                yield ids, kind
            elif token == SECOND:
                yield pair or (), kind
            else:
                yield (token,), kind


@dataclass(frozen=True)
class Roles:
    """The tokens with special roles.

    Attributes:
      bos, eos, pad: see Tokenizer.
      mask: the mask token, if any.
      stops: tokens that end generated text, in addition to EOS.
      frame: special tokens around a text.
    """

    bos: int
    eos: int
    pad: int
    frame: Frame
    mask: int | None = None
    stops: tuple[int, ...] = ()


class TableTokenizer:
    """Base class of tokenizers whose ids each stand for bytes; subclasses encode."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        special_tokens: Mapping[str, int],
        roles: Roles,
        description: Mapping[str, Any],
        files: Mapping[str, bytes],
        leading_space: bool = False,
        chat_template: str | None = None,
    ):
        """Args:
        pieces: the bytes of each id.
        special_tokens: name -> id.
        roles: ids of BOS, EOS and the like.
        description: JSON values for `load_tokenizer`, "kind" among them.
        files: its files, name -> content.
        leading_space: encoding adds a space before the text; decoding removes it.
        chat_template: see Tokenizer; not part of the fingerprint, as encoding does not depend on
          it.
        """
        self._pieces = list(pieces)
        self.special_tokens = dict(special_tokens)
        self.bos_id, self.eos_id, self.pad_id = roles.bos, roles.eos, roles.pad
        self.mask_id, self.chat_template = roles.mask, chat_template
        self.stop_ids = tuple(dict.fromkeys((roles.eos, *roles.stops)))
        self.prefix, self.suffix = roles.frame.prefix, roles.frame.suffix
        self.vocab_size = len(pieces)
        self._frame, self._leading_space = roles.frame, leading_space
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

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids = self.encode(text)
        return ids, self._offsets(text, ids)

    def encode_marked(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, self._longest_first()))})", text):
            if part in self.special_tokens:
                ids.append(self.special_tokens[part])
            elif part:
                ids += self.encode(part)
        return ids

    def wrap(
        self, ids: Sequence[int], pair: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        return self._frame.wrap(ids, pair)

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
            if read_description(folder)["fingerprint"] != self.fingerprint:
                raise UserError(folder, "holds another tokenizer", "choose another folder")
            return
        description = self._description | {"fingerprint": self.fingerprint}
        make_folder(
            folder, lambda path: write_files(path, description, self._files, self.chat_template)
        )

    def _offsets(self, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Character spans of the ids of `text`, whose bytes together are those of the text."""
        lengths = np.array([len(self._pieces[token]) for token in ids], np.int64)
        if self._leading_space and ids and self._pieces[ids[0]].startswith(b" "):
            lengths[0] -= 1
        data = np.frombuffer(utf8(text), np.uint8)
        # UTF-8: bytes 10xxxxxx continue a character
        character = np.append(np.cumsum((data & 0xC0) != 0x80) - 1, len(text))
        ends = np.cumsum(lengths)
        starts = ends - lengths
        first = character[starts]
        last = np.where(ends > starts, character[np.maximum(ends - 1, 0)] + 1, first)
        return list(zip(first.tolist(), last.tolist(), strict=True))

    def _longest_first(self) -> list[str]:
        return sorted(self.special_tokens, key=len, reverse=True)


class BytesTokenizer(TableTokenizer):
    """Ids 0 to 255 are bytes, then 8 special tokens, so that the vocabulary is divisible by 8."""

    def __init__(self, **options: Any) -> None:
        """`options`: of TableTokenizer."""
        names = ["<pad>", "<bos>", "<eos>", "<mask>", *(f"<reserved{i}>" for i in range(4))]
        specials = {name: 256 + i for i, name in enumerate(names)}
        pieces = [bytes([i]) for i in range(256)] + [b""] * len(names)
        roles = Roles(257, 258, 256, Frame.starting(257), specials["<mask>"])
        super().__init__(pieces, specials, roles, {"kind": "bytes"}, {}, **options)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(utf8(text)) for text in texts]
