"""Hugging Face's tokenizer.json behind the protocol of ours."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import tokenizers

from llmjax.data.config import HuggingFaceTokenizerConfig
from llmjax.data.frame import FIRST, SECOND, Frame, Part
from llmjax.data.huggingface_pieces import decoders, piece_decoder
from llmjax.data.table_tokenizer import Roles, TableTokenizer, utf8
from llmjax.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
# Where no neighbouring file says which they are.
WELL_KNOWN = {
    "bos_token": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]"),
    "eos_token": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>"),
    "mask_token": ("[MASK]", "<mask>"),
}


class HuggingFaceTokenizer(TableTokenizer):
    """A tokenizer.json. Lossless where its model is (byte-level BPE, or byte fallback)."""

    def __init__(
        self,
        text: bytes,
        names: Mapping[str, str | None],
        where: object = TOKENIZER_FILE,
        *,
        stops: Sequence[str] = (),
        chat_template: str | None = None,
    ):
        """Args:
          text: the content of tokenizer.json.
          names: the tokens called bos_token, eos_token, pad_token and mask_token, or None.
          where: for messages.
          stops: tokens that end a written text, beside EOS.
          chat_template: see Tokenizer.

        Raises:
          UserError: not a tokenizer.json, or it has neither BOS nor EOS.
        """
        with Refusal(where):
            spec = json.loads(text.decode("utf-8"))
            added = {str(t["content"]): bool(t["special"]) for t in spec["added_tokens"]}
            inner = _open(text)
            vocab = inner.get_vocab(with_added_tokens=True)
            self._inner, self._renumbered = _blind(inner, spec, vocab)
            to_bytes = piece_decoder(spec, added)
        special = {name: vocab[name] for name, is_special in added.items() if is_special}
        roles = _roles(names, vocab, stops, _frame(inner), where)
        own = {roles.bos, roles.eos, roles.pad, roles.mask}
        special |= {name: i for name, i in vocab.items() if i in own}
        marked = set(special.values())
        pieces = [b""] * (max(vocab.values()) + 1)
        for piece, token in vocab.items():
            if token not in marked:
                pieces[token] = to_bytes(piece)
        probe = inner.encode("a", add_special_tokens=False).ids
        words = any(decoder["type"] == "WordPiece" for decoder in decoders(spec.get("decoder")))
        description = {"kind": "huggingface", "names": dict(names)}
        super().__init__(
            pieces,
            special,
            roles,
            description | ({"stops": list(stops)} if stops else {}),
            {TOKENIZER_FILE: text},
            leading_space=words or (bool(probe) and pieces[probe[0]].startswith(b" ")),
            chat_template=chat_template,
        )

    @classmethod
    def from_config(cls, config: HuggingFaceTokenizerConfig) -> "HuggingFaceTokenizer":
        """Reads the file of `config`, and the names of special tokens from its neighbours."""
        path = Path(config.path).expanduser()
        path = path / TOKENIZER_FILE if path.is_dir() else path
        keys = ("bos_token", "eos_token", "pad_token")
        names = {key: getattr(config, key) or _neighbour(path, key) for key in keys}
        return cls(_read(path), names, path)

    @classmethod
    def from_folder(
        cls, folder: Path, description: Mapping[str, Any], chat_template: str | None = None
    ) -> "HuggingFaceTokenizer":
        """Reads back what `save` wrote."""
        path = folder / TOKENIZER_FILE
        stops = description.get("stops", ())
        names = description["names"]
        return cls(_read(path), names, path, stops=stops, chat_template=chat_template)

    @property
    def content(self) -> bytes:
        """The tokenizer.json."""
        return self._files[TOKENIZER_FILE]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            utf8(text)
        found = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        if self._renumbered:
            return [[self._renumbered.get(i, i) for i in encoding.ids] for encoding in found]
        return [encoding.ids for encoding in found]

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        utf8(text)
        found = self._inner.encode(text, add_special_tokens=False)
        return [self._renumbered.get(i, i) for i in found.ids], list(found.offsets)

    def encode_marked(self, text: str) -> list[int]:
        utf8(text)
        ids: list[int] = self._marking.encode(text, add_special_tokens=False).ids
        return ids

    @cached_property
    def _marking(self) -> tokenizers.Tokenizer:
        return _open(self.content)


class Refusal:
    """Turns what is raised over a file that is no good tokenizer.json into a UserError."""

    def __init__(self, where: object, problem: str = "is not a tokenizer.json"):
        self._where, self._problem = where, problem

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, UserError):
            return
        # The library raises bare Exceptions, and panics in its own language.
        usual = issubclass(kind, ValueError | KeyError | TypeError | AttributeError | IndexError)
        if usual or kind is Exception or kind.__name__ == "PanicException":
            reason = f"{self._problem}: {str(error)[:200]!r}"
            raise UserError(self._where, reason, "check the path") from error


def _open(text: bytes) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer.from_str(text.decode("utf-8"))
    inner.no_truncation()
    inner.no_padding()
    return inner


def _blind(
    inner: tokenizers.Tokenizer, spec: dict[str, Any], vocab: dict[str, int]
) -> tuple[tokenizers.Tokenizer, dict[int, int]]:
    """One to which "<s>" in a text is text (`inner` itself, or one of other numbers -> ours).

    A Unigram model would still find special tokens among its pieces: there they are renamed.
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
    blind = _open(json.dumps(spec | {"added_tokens": kept, "model": model}).encode())
    renamed = blind.get_vocab(with_added_tokens=True)
    numbers = {renamed[t["content"]]: vocab[t["content"]] for t in kept}
    return blind, {here: there for here, there in numbers.items() if here != there}


def _frame(inner: tokenizers.Tokenizer) -> Frame:
    """What the file's post-processor puts around texts."""
    for probe in ("a", "0", "the", "."):
        if inner.encode(probe, add_special_tokens=False).ids:
            return Frame(_parts(inner.encode(probe)), _parts(inner.encode(probe, probe)))
    return Frame()


def _parts(encoding: tokenizers.Encoding) -> tuple[Part, ...]:
    places = {None: None, 0: FIRST, 1: SECOND}
    found: list[Part] = []
    rows = zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True)
    for token, kind, sequence in rows:
        place = places[sequence]
        if place is None:
            found.append((token, kind))
        elif (place, kind) not in found:
            found.append((place, kind))
    return tuple(found)


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


def _roles(
    names: Mapping[str, str | None],
    vocab: dict[str, int],
    stops: Sequence[str],
    frame: Frame,
    where: object,
) -> Roles:
    """BOS and EOS each stand in for the other, EOS for padding."""
    found: dict[str, int | None] = {}
    for key, known in WELL_KNOWN.items():
        name = names.get(key)
        if name is not None and name not in vocab:
            raise UserError(where, f"has no token {name!r}", f"check {key}")
        candidates = known if name is None else (name,)
        found[key] = next((vocab[c] for c in candidates if c in vocab), None)
    bos, eos, pad, mask = (found[key] for key in WELL_KNOWN)
    one = eos if bos is None else bos
    if one is None:
        raise UserError(where, "does not say which token is BOS or EOS", "set bos_token, eos_token")
    last = one if eos is None else eos
    ends = tuple(vocab[name] for name in stops if name in vocab)
    return Roles(one, last, last if pad is None else pad, frame, mask, ends)
