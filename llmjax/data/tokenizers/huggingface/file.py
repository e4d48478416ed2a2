"""The file tokenizer.json, and what it may ask for: bounds that are checked before it is used.

The largest published vocabularies have some 262,000 tokens and 580,000 merges, and no published
sequence of normalizers makes a text much longer.
"""

import base64
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes
from llmjax.storage.json_documents import DOCUMENT, parse_json

TOKENIZER_FILE = "tokenizer.json"
NOT_A_TOKENIZER = "is not a tokenizer.json"
WRONG_FORM = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What Python raises over a file of another form."""
MAX_TOKENS = 1 << 20
"""Of a vocabulary, and ids are below it."""
MAX_MERGES = 1 << 21
"""Of byte-pair encoding."""
MAX_ADDED = 1 << 17
"""Added tokens. The library searches every text for each of them."""
MAX_STEPS = 256
"""Normalizers, pre-tokenizers and decoders, all together."""
MAX_GROWTH = 4096
"""How many characters one may become in encoding, or in decoding, at the worst."""
OTHER = "use another tokenizer"
FILE_SIZE = 1 << 28
"""Bytes of a tokenizer's file."""


def read_tokenizer_json(path: Path) -> bytes:
    """The file's content.

    Raises:
      UserError: it cannot be read, or is too large.
    """
    return read_bytes(path, FILE_SIZE, fix="check the path")


def parse_tokenizer_json(content: bytes, where: object) -> dict[str, Any]:
    """The value of a tokenizer.json that keeps to the limits of this file.

    Raises:
      UserError: it is something else, or asks for more.
    """
    try:
        spec = parse_json(content, where, limits=DOCUMENT)
    except UserError as error:
        raise UserError(where, f"{NOT_A_TOKENIZER}: {error.reason}", "check the path") from error
    try:
        check_limits(spec, where)
        dict(spec["model"])
    except WRONG_FORM as error:
        reason = f"{NOT_A_TOKENIZER}: {str(error)[:200]!r}"
        raise UserError(where, reason, "check the path") from error
    return dict(spec)


def tokens_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """Spelling -> id of all that a tokenizer.json names."""
    pieces = spec["model"]["vocab"]
    if isinstance(pieces, list):
        pieces = {piece: number for number, (piece, _) in enumerate(pieces)}
    return {**pieces, **{token["content"]: token["id"] for token in spec["added_tokens"]}}


def compact(spec: Mapping[str, Any]) -> bytes:
    """A tokenizer.json without needless spaces."""
    return json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()


def steps_of(spec: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer, a pre-tokenizer or a decoder, sequences taken apart."""
    if not spec:
        return
    if spec["type"] != "Sequence":
        yield spec
        return
    for key in ("normalizers", "pretokenizers", "decoders"):
        for inner in spec.get(key) or ():
            yield from steps_of(inner)


def check_limits(spec: Mapping[str, Any], where: object) -> None:
    """Whether a tokenizer.json asks for no more than these limits.

    Args:
      spec: its content.
      where: for messages.

    Raises:
      UserError: it asks for more.
      KeyError, TypeError, AttributeError: it has another form than a tokenizer.json.
    """
    vocab = spec["model"]["vocab"]
    added = spec["added_tokens"]
    at_most(MAX_TOKENS, len(vocab), "tokens", where)
    at_most(MAX_MERGES, len(spec["model"].get("merges") or ()), "merges", where)
    at_most(MAX_ADDED, len(added), "added tokens", where)
    ids = [token["id"] for token in added]
    check_ids(ids, where)
    check_ids(range(len(vocab)) if isinstance(vocab, list) else vocab.values(), where)
    before = [*steps_of(spec.get("normalizer")), *steps_of(spec.get("pre_tokenizer"))]
    behind = list(steps_of(spec.get("decoder")))
    at_most(MAX_STEPS, len(before) + len(behind), "normalizers and the like", where)
    for steps, action in ((before, "encoding"), (behind, "decoding")):
        growth = math.prod(map(growth_of, steps))
        if growth > MAX_GROWTH:
            reason = (
                f"could make a text {min(growth, 1e15):.3g} times as long in {action}, and at most "
                f"{MAX_GROWTH} times is allowed"
            )
            raise UserError(where, reason, OTHER)


def check_ids(ids: Collection[Any], where: object) -> None:
    """Raises UserError where an id is none that a vocabulary of MAX_TOKENS has."""
    odd = [type_ for type_ in {*map(type, ids)} if type_ is not int]
    if odd or (ids and not 0 <= min(ids) <= max(ids) < MAX_TOKENS):
        worst = odd[0].__name__ if odd else min(ids) if min(ids) < 0 else max(ids)
        reason = f"has a token with the id {str(worst)[:40]}; ids are from 0 to {MAX_TOKENS - 1:,}"
        raise UserError(where, reason, OTHER)


def at_most(limit: int, count: int, what: str, where: object) -> None:
    """Raises UserError where there are more."""
    if count > limit:
        reason = f"has {count:,} {what}, and at most {limit:,} are read"
        raise UserError(where, reason, OTHER)


def growth_of(step: Mapping[str, Any]) -> float:
    """How many characters one character may become in a step, at the worst.

    What a step puts before a text is counted as if the text had a single character.
    """
    growth = GROWTH.get(step["type"], 1)
    return growth(step) if callable(growth) else growth


def _replace(step: Mapping[str, Any]) -> float:
    content, pattern = len(step["content"]), step["pattern"].get("String")
    if pattern:
        return max(1.0, content / len(pattern))
    return 1 + content  # a regular expression may match before every character and leave it there


def _precompiled(step: Mapping[str, Any]) -> float:
    """A SentencePiece table: the size of a trie, the trie, and what it writes, each ended by 0."""
    table = base64.b64decode(step["precompiled_charsmap"] or "")
    written = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
    return max(1, *(len(text.decode("utf-8", "replace")) for text in written))


def _bpe(step: Mapping[str, Any]) -> float:
    return 1 if step.get("suffix", "</w>") else 2


def _ctc(step: Mapping[str, Any]) -> float:
    return 1 if step.get("word_delimiter_token", "|") else 2


# By the type that the file names; Unicode's own figures for its normal forms.
GROWTH: dict[str, float | Callable[[Mapping[str, Any]], float]] = {
    "BPEDecoder": _bpe,
    "BertNormalizer": 9,
    "ByteLevel": 4,
    "CTC": _ctc,
    "Lowercase": 2,
    "Metaspace": 2,
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Precompiled": _precompiled,
    "Prepend": lambda step: 1 + len(step["prepend"]),
    "Replace": _replace,
    "WordPiece": 2,
}
