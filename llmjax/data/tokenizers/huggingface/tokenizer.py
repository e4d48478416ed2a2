"""Tokenizers of Hugging Face's tokenizer.json."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from llmjax.data.tokenizers.huggingface.decoding import HuggingFaceStream, PieceDecoder
from llmjax.data.tokenizers.huggingface.file import (
    OTHER,
    TOKENIZER_FILE,
    check_ids,
    parse_tokenizer_json,
    read_tokenizer_json,
    tokens_of,
)
from llmjax.data.tokenizers.huggingface.library import (
    TranslatedErrors,
    hidden_panics,
    open_tokenizer,
)
from llmjax.data.tokenizers.huggingface.metadata import TokenizerMetadata, with_added_tokens
from llmjax.data.tokenizers.huggingface.stages import byte_level_bytes, byte_level_table
from llmjax.data.tokenizers.table import FIRST, SECOND, Frame, FramePart, Roles, TableTokenizer
from llmjax.data.tokenizers.tokenizer import BytesStream, TextStream, utf8
from llmjax.errors import UserError

DECODING_SECONDS = 60
"""Limit of CPU time for decoding every entry of a vocabulary; a million takes some 10 s."""
# Names that are tried if no file of the folder states them.
WELL_KNOWN = {
    "bos_token": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]"),
    "eos_token": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>"),
    "mask_token": ("[MASK]", "<mask>"),
}


class HuggingFaceTokenizer(TableTokenizer):
    """A tokenizer.json. Lossless if its model is (byte-level BPE, or byte fallback).

    Decoding is that of the library without special tokens, except for two cases, so that texts
    round-trip: a space that encoding adds before a text and the decoder leaves there is removed;
    and an added token of a byte-level vocabulary whose bytes would be invalid UTF-8 stands for its
    name.

    Encoding is deterministic: `dropout` of merges is disabled.
    """

    def __init__(
        self,
        text: bytes,
        names: Mapping[str, str | None],
        where: object = TOKENIZER_FILE,
        *,
        stops: Sequence[str] = (),
        chat_template: str | None = None,
        spec: dict[str, Any] | None = None,
    ):
        """Args:
          text: the content of tokenizer.json.
          names: of bos_token, eos_token, pad_token and mask_token.
          where: for messages.
          stops: tokens that end generated text, in addition to EOS.
          chat_template: see Tokenizer.
          spec: the value of `text`, if already parsed by parse_tokenizer_json.

        Raises:
          UserError: it is not a tokenizer.json, exceeds a limit, or has neither BOS nor EOS.
        """
        spec = parse_tokenizer_json(text, where) if spec is None else spec
        with TranslatedErrors(where):
            self._quiet = hidden_panics(spec)
            added = {str(t["content"]): bool(t["special"]) for t in spec["added_tokens"]}
            self._plain = open_tokenizer(text)
            vocab = self._plain.get_vocab(with_added_tokens=True)
            check_ids(vocab.values(), where)
            self._decoder = PieceDecoder(spec.get("decoder"))
            to_bytes = _piece_to_bytes(self._decoder, added)
            frame = _frame(self._plain)
            probe = self._plain.encode("a", add_special_tokens=False).ids
            self._inner, self._renumbered = _without_special_tokens(self._plain, spec, vocab)
        special = {name: vocab[name] for name, is_special in added.items() if is_special}
        roles = _roles(names, vocab, stops, frame, where)
        named = {roles.bos, roles.eos, roles.pad, roles.mask}
        special |= {name: i for name, i in vocab.items() if i in named}
        self._marked = set(special.values())
        pieces = [b""] * (max(vocab.values()) + 1)
        failing = TranslatedErrors(
            where, "has a decoder that fails on its own vocabulary", fix=OTHER, kinds=()
        )
        with failing, self._quiet:
            for piece, token in self._in_time(vocab, where):
                pieces[token] = to_bytes(piece)
        self._decoding = TranslatedErrors(where, "cannot decode these tokens", fix=OTHER, kinds=())
        self._encoding = TranslatedErrors(where, "cannot encode this text", fix=OTHER, kinds=())
        description = {"kind": "huggingface", "names": dict(names)}
        super().__init__(
            pieces,
            special,
            roles,
            description | ({"stops": list(stops)} if stops else {}),
            {TOKENIZER_FILE: text},
            leading_space=self._decoded(probe, pieces) == b" a",
            chat_template=chat_template,
        )

    @classmethod
    def from_file(cls, path: Path, names: Mapping[str, str | None]) -> "HuggingFaceTokenizer":
        """Reads a tokenizer.json, or that of a folder.

        Args:
          path: of the file or folder.
          names: of the special tokens; None: as stated by the other files of the folder.
        """
        path = path / TOKENIZER_FILE if path.is_dir() else path
        content, metadata = read_tokenizer_json(path), TokenizerMetadata.for_tokenizer(path)
        spec = parse_tokenizer_json(content, path)
        with TranslatedErrors(path):
            content, spec = with_added_tokens(content, spec, metadata)
            vocab = tokens_of(spec)
        stated = {key: name for key in names if (name := metadata.token(key)) in vocab}
        names = {key: name or stated.get(key) for key, name in names.items()}
        return cls(content, names, path, spec=spec)

    @classmethod
    def from_folder(
        cls, folder: Path, description: Mapping[str, Any], chat_template: str | None = None
    ) -> "HuggingFaceTokenizer":
        """Loads a saved tokenizer."""
        path = folder / TOKENIZER_FILE
        with TranslatedErrors(folder, "has a damaged description", fix="restore the folder"):
            stops = list(description.get("stops", ()))
            names = dict(description["names"])
        return cls(read_tokenizer_json(path), names, path, stops=stops, chat_template=chat_template)

    @property
    def content(self) -> bytes:
        """The tokenizer.json."""
        return self._files[TOKENIZER_FILE]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            utf8(text)
        with self._encoding, self._quiet:
            encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        if self._renumbered:
            return [[self._renumbered.get(i, i) for i in encoding.ids] for encoding in encodings]
        return [encoding.ids for encoding in encodings]

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        utf8(text)
        with self._encoding, self._quiet:
            encoding = self._inner.encode(text, add_special_tokens=False)
        return [self._renumbered.get(i, i) for i in encoding.ids], list(encoding.offsets)

    def encode_marked(self, text: str) -> list[int]:
        utf8(text)
        with self._encoding, self._quiet:
            ids: list[int] = self._marking.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        if self._decoder.is_byte_level:
            return super().decode(ids)
        return self.decode_bytes(ids).decode()

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        data = self._decoded(ids, self._pieces)
        return data.removeprefix(b" ") if self._leading_space else data

    def text_stream(self, after: Sequence[int] | None) -> TextStream:
        """See StreamsText."""
        if self._decoder.is_byte_level:
            return BytesStream(self, at_start=after is None)
        return HuggingFaceStream(
            self._decoder, self._piece, after, self._decoding, leading_space=self._leading_space
        )

    def _in_time(self, vocab: Mapping[str, int], where: object) -> Iterator[tuple[str, int]]:
        """Yields all entries but special tokens; raises a UserError after DECODING_SECONDS."""
        end = time.process_time() + DECODING_SECONDS
        for piece, token in vocab.items():
            if time.process_time() > end:
                reason = f"has a decoder that takes over {DECODING_SECONDS} s for its vocabulary"
                raise UserError(where, reason, OTHER)
            if token not in self._marked:
                yield piece, token

    def _decoded(self, ids: Iterable[int], pieces: Sequence[bytes]) -> bytes:
        """The text of ids as the file's decoder gives it."""
        if self._decoder.is_byte_level:
            return b"".join(map(pieces.__getitem__, ids))
        with self._decoding, self._quiet:
            kept = [int(token) for token in ids if token not in self._marked]
            return str(self._plain.decode(kept, skip_special_tokens=False)).encode()

    def _piece(self, token: int) -> str | None:
        """An id's vocabulary entry; None for special tokens and unused ids."""
        return None if token in self._marked else self._plain.id_to_token(token)

    @cached_property
    def _marking(self) -> tokenizers.Tokenizer:
        return self._plain if self._plain is not self._inner else open_tokenizer(self.content)


def _piece_to_bytes(decoder: PieceDecoder, added: Mapping[str, bool]) -> Callable[[str], bytes]:
    """A function from a vocabulary entry to the bytes that it adds within a text."""
    if not decoder.is_byte_level:
        return decoder.piece_to_bytes()
    table = byte_level_table()

    def to_bytes(piece: str) -> bytes:
        data = byte_level_bytes(piece, table)
        if piece in added and "\N{REPLACEMENT CHARACTER}" in data.decode("utf-8", "replace"):
            return piece.encode()
        return data

    return to_bytes


def _without_special_tokens(
    inner: tokenizers.Tokenizer, spec: dict[str, Any], vocab: dict[str, int]
) -> tuple[tokenizers.Tokenizer, dict[int, int]]:
    """A tokenizer that treats "<s>" in a text as text, and a map of its ids that differ to ours.

    A Unigram model would still find special tokens among its pieces, so these are renamed.
    """
    if spec["model"]["type"] != "Unigram":
        inner.encode_special_tokens = True
        return inner, {}
    hidden = {t["content"] for t in spec["added_tokens"] if t["special"]}
    kept = [t for t in spec["added_tokens"] if not t["special"]]
    pieces = [
        [f"\U0010fffd{number}" if piece in hidden else piece, score]
        for number, (piece, score) in enumerate(spec["model"]["vocab"])
    ]
    model = spec["model"] | {"vocab": pieces}
    renamed = open_tokenizer(json.dumps(spec | {"added_tokens": kept, "model": model}).encode())
    ids = renamed.get_vocab(with_added_tokens=True)
    numbers = {ids[t["content"]]: vocab[t["content"]] for t in kept}
    return renamed, {here: there for here, there in numbers.items() if here != there}


def _frame(inner: tokenizers.Tokenizer) -> Frame:
    """The special tokens that the file's post-processor adds around texts."""
    for probe in ("a", "0", "the", "."):
        if inner.encode(probe, add_special_tokens=False).ids:
            return Frame(_parts(inner.encode(probe)), _parts(inner.encode(probe, probe)))
    return Frame()


def _parts(encoding: tokenizers.Encoding) -> tuple[FramePart, ...]:
    texts = {0: FIRST, 1: SECOND}
    parts: list[FramePart] = []
    rows = zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True)
    for token, kind, sequence in rows:
        if sequence is None:
            parts.append((token, kind))
        elif (texts[sequence], kind) not in parts:
            parts.append((texts[sequence], kind))
    return tuple(parts)


def _roles(
    names: Mapping[str, str | None],
    vocab: dict[str, int],
    stops: Sequence[str],
    frame: Frame,
    where: object,
) -> Roles:
    """Finds the special tokens; BOS and EOS replace each other if missing, EOS also padding."""
    ids: dict[str, int | None] = {}
    for key, defaults in WELL_KNOWN.items():
        name = names.get(key)
        if name is not None and name not in vocab:
            raise UserError(where, f"has no token {name!r}", f"check {key}")
        candidates = defaults if name is None else (name,)
        ids[key] = next((vocab[c] for c in candidates if c in vocab), None)
    bos, eos, pad, mask = (ids[key] for key in WELL_KNOWN)
    first = eos if bos is None else bos
    if first is None:
        raise UserError(where, "does not say which token is BOS or EOS", "set bos_token, eos_token")
    last = first if eos is None else eos
    ends = tuple(vocab[name] for name in stops if name in vocab)
    return Roles(first, last, last if pad is None else pad, frame, mask, ends)
