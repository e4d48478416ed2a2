"""Hugging Face's tokenizer.json behind the protocol of ours."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from llmjax.data.config import HuggingFaceTokenizerConfig
from llmjax.data.tokenizer import TableTokenizer, utf8
from llmjax.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
# Where no neighbouring file says which they are.
WELL_KNOWN = {
    "bos_token": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]"),
    "eos_token": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>"),
}


class HuggingFaceTokenizer(TableTokenizer):
    """A tokenizer.json. Lossless where its model is (byte-level BPE, or byte fallback)."""

    def __init__(self, text: bytes, names: dict[str, str | None], where: object = TOKENIZER_FILE):
        """Args:
          text: the content of tokenizer.json.
          names: the tokens called bos_token, eos_token and pad_token, or None.
          where: for messages.

        Raises:
          UserError: not a tokenizer.json, or it has neither BOS nor EOS.
        """
        try:
            spec = json.loads(text)
            added = {str(t["content"]): bool(t["special"]) for t in spec["added_tokens"]}
            spec["model"]["type"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                where, f"is not a tokenizer.json: {error!r}", "check the path"
            ) from error
        inner = tokenizers.Tokenizer.from_str(text.decode("utf-8"))
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # "<s>" in a text is text
        vocab = inner.get_vocab(with_added_tokens=True)
        special = {name: vocab[name] for name, is_special in added.items() if is_special}
        ids = _ids(names, vocab, where)
        special |= {name: i for name, i in vocab.items() if i in ids}
        to_bytes = _piece_decoder(spec)
        pieces = [b""] * (max(vocab.values()) + 1)
        for piece, token in vocab.items():
            if token not in special.values():
                pieces[token] = piece.encode() if piece in added else to_bytes(piece)
        self._inner = inner
        probe = inner.encode("a", add_special_tokens=False).ids
        words = any(decoder["type"] == "WordPiece" for decoder in _decoders(spec.get("decoder")))
        super().__init__(
            pieces,
            special,
            ids,
            {"kind": "huggingface", "names": names},
            {TOKENIZER_FILE: text},
            leading_space=words or (bool(probe) and pieces[probe[0]].startswith(b" ")),
        )

    @classmethod
    def from_config(cls, config: HuggingFaceTokenizerConfig) -> "HuggingFaceTokenizer":
        """Reads the file of `config`, and the names of special tokens from its neighbours."""
        path = Path(config.path).expanduser()
        path = path / TOKENIZER_FILE if path.is_dir() else path
        names = {key: getattr(config, key) or _neighbour(path, key) for key in WELL_KNOWN}
        return cls(_read(path), names, path)

    @classmethod
    def from_folder(cls, folder: Path, description: dict[str, Any]) -> "HuggingFaceTokenizer":
        """Reads back what `save` wrote."""
        path = folder / TOKENIZER_FILE
        return cls(_read(path), description["names"], path)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            utf8(text)
        found = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}", "check the path") from error


def _neighbour(path: Path, key: str) -> str | None:
    """The special token `key` as the files beside tokenizer.json name it."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = path.with_name(name)
        if file.is_file():
            try:
                value = json.loads(file.read_bytes()).get(key)
            except (ValueError, AttributeError) as error:
                raise UserError(file, f"is not a JSON object: {error}", "mend it") from error
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                return value
    return None


def _ids(
    names: dict[str, str | None], vocab: dict[str, int], where: object
) -> tuple[int, int, int]:
    """BOS, EOS and padding; each of the first two stands in for the other, EOS for padding."""
    found: dict[str, int | None] = {}
    for key, known in WELL_KNOWN.items():
        name = names.get(key)
        if name is not None and name not in vocab:
            raise UserError(where, f"has no token {name!r}", f"check {key}")
        candidates = known if name is None else (name,)
        found[key] = next((vocab[c] for c in candidates if c in vocab), None)
    bos, eos, pad = (found[key] for key in WELL_KNOWN)
    one = eos if bos is None else bos
    if one is None:
        raise UserError(where, "does not say which token is BOS or EOS", "set bos_token, eos_token")
    last = one if eos is None else eos
    return one, last, last if pad is None else pad


def _decoders(spec: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if spec and spec["type"] == "Sequence":
        for inner in spec["decoders"]:
            yield from _decoders(inner)
    elif spec:
        yield spec


def _piece_decoder(spec: dict[str, Any]) -> Callable[[str], bytes]:
    """What a vocabulary entry stands for, by the decoder that tokenizer.json states."""
    decoders = {decoder["type"]: decoder for decoder in _decoders(spec.get("decoder"))}
    if "ByteLevel" in decoders:
        table = _byte_level_table()
        return lambda piece: b"".join(table.get(c) or c.encode() for c in piece)
    if "WordPiece" in decoders:
        prefix = decoders["WordPiece"].get("prefix", "##")
        return lambda piece: (
            piece.removeprefix(prefix) if piece.startswith(prefix) else " " + piece
        ).encode()
    if "BPEDecoder" in decoders:
        suffix = decoders["BPEDecoder"].get("suffix", "</w>")
        return lambda piece: piece.replace(suffix, " ").encode()
    replacements = [("\u2581", " ")] if "Metaspace" in decoders else []
    if "Replace" in decoders and "String" in decoders["Replace"]["pattern"]:
        found = decoders["Replace"]
        replacements.append((found["pattern"]["String"], found["content"]))

    def plain(piece: str) -> bytes:
        if "ByteFallback" in decoders and len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        for old, new in replacements:
            piece = piece.replace(old, new)
        return piece.encode()

    return plain


def _byte_level_table() -> dict[str, bytes]:
    """Character -> byte in byte-level vocabularies: printable Latin-1 stands for itself, the other
    68 bytes, in order, for U+0100 and on (GPT-2, Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(rest)}
