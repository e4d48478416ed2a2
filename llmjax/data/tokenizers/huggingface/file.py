"""Reads tokenizer.json, and checks its limits before it is used.

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
"""Python's exceptions for a file of another form."""
MAX_TOKENS = 1 << 20
"""Maximum vocabulary size; also the upper bound of ids."""
MAX_MERGES = 1 << 21
"""Maximum merges of byte-pair encoding."""
MAX_ADDED = 1 << 17
"""Maximum added tokens: the library searches every text for each of them."""
MAX_STEPS = 256
"""Maximum normalizers, pre-tokenizers and decoders together."""
MAX_GROWTH = 4096
"""Maximum number of characters that one may become in encoding or decoding."""
OTHER = "use another tokenizer"
FILE_SIZE = 1 << 28
"""Maximum bytes of a tokenizer's file."""


def read_tokenizer_json(path: Path) -> bytes:
    """Reads the file.

    Raises:
      UserError: it cannot be read, or is too large.
    """
    return read_bytes(path, FILE_SIZE, fix="check the path")


def parse_tokenizer_json(content: bytes, where: object) -> dict[str, Any]:
    """Parses a tokenizer.json and checks its limits.

    Raises:
      UserError: it is not a tokenizer.json, or exceeds a limit.
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
    """Content -> id of all tokens of a tokenizer.json."""
    pieces = spec["model"]["vocab"]
    if isinstance(pieces, list):
        pieces = {piece: number for number, (piece, _) in enumerate(pieces)}
    return {**pieces, **{token["content"]: token["id"] for token in spec["added_tokens"]}}


def compact(spec: Mapping[str, Any]) -> bytes:
    """Serializes a tokenizer.json compactly."""
    return json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()


def steps_of(spec: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, with sequences flattened."""
    if not spec:
        return
    if spec["type"] != "Sequence":
        yield spec
        return
    for key in ("normalizers", "pretokenizers", "decoders"):
        for inner in spec.get(key) or ():
            yield from steps_of(inner)


def check_limits(spec: Mapping[str, Any], where: object) -> None:
    """Checks a tokenizer.json against the limits above.

    Args:
      spec: its value.
      where: for messages.

    Raises:
      UserError: it exceeds a limit.
      KeyError, TypeError, AttributeError: it is not of the form of a tokenizer.json.
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
    after = list(steps_of(spec.get("decoder")))
    at_most(MAX_STEPS, len(before) + len(after), "normalizers and the like", where)
    for steps, action in ((before, "encoding"), (after, "decoding")):
        growth = math.prod(map(growth_of, steps))
        if growth > MAX_GROWTH:
            reason = (
                f"could make a text {min(growth, 1e15):.3g} times as long in {action}, and at most "
                f"{MAX_GROWTH} times is allowed"
            )
            raise UserError(where, reason, OTHER)


def check_ids(ids: Collection[Any], where: object) -> None:
    """Raises a UserError if an id is not an integer from 0 to MAX_TOKENS - 1."""
    wrong = [type_ for type_ in {*map(type, ids)} if type_ is not int]
    if wrong or (ids and not 0 <= min(ids) <= max(ids) < MAX_TOKENS):
        worst = wrong[0].__name__ if wrong else min(ids) if min(ids) < 0 else max(ids)
        reason = f"has a token with the id {str(worst)[:40]}; ids are from 0 to {MAX_TOKENS - 1:,}"
        raise UserError(where, reason, OTHER)


def at_most(limit: int, count: int, what: str, where: object) -> None:
    """Raises a UserError if `count` exceeds `limit`."""
    if count > limit:
        reason = f"has {count:,} {what}, and at most {limit:,} are read"
        raise UserError(where, reason, OTHER)


def growth_of(step: Mapping[str, Any]) -> float:
    """Maximum number of characters that a step makes of one.

    What a step adds before a text counts as if the text had a single character.
    """
    growth = GROWTH.get(step["type"], 1)
    return growth(step) if callable(growth) else growth


def _replace(step: Mapping[str, Any]) -> float:
    content, pattern = len(step["content"]), step["pattern"].get("String")
    if pattern:
        return max(1.0, content / len(pattern))
    return 1 + content  # a regular expression may match the empty string before every character


def _precompiled(step: Mapping[str, Any]) -> float:
    """A SentencePiece table: size of a trie, the trie, and replacements, each terminated by 0."""
    table = base64.b64decode(step["precompiled_charsmap"] or "")
    replacements = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
    return max(1, *(len(text.decode("utf-8", "replace")) for text in replacements))


def _bpe(step: Mapping[str, Any]) -> float:
    return 1 if step.get("suffix", "</w>") else 2


def _ctc(step: Mapping[str, Any]) -> float:
    return 1 if step.get("word_delimiter_token", "|") else 2


# By type of step; those of Unicode's normal forms are from the standard.
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
