"""JSON within limits of size, number of values and depth: the one reader of all JSON.

Python's own parser turns three bytes (`[],`) into 64, and fails in its own way where values are
nested too deep. Here a document is measured before a value of it is made.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.bounded import MIB, other_encoding, read_bytes, regular_file, size_text


@dataclass(frozen=True)
class JsonLimits:
    """What is parsed at most."""

    size: int
    """Bytes of the text."""
    marks: int
    """Commas, colons and opening brackets: no document has more values than these and one. Those
    inside strings count too. Each costs at most about 100 bytes of memory."""
    depth: int = 100
    """Containers within containers."""


SETTINGS = JsonLimits(size=16 * MIB, marks=1_000_000)
"""Descriptions and settings: config.json, manifests, records of a run."""
DOCUMENT = JsonLimits(size=256 * MIB, marks=10_000_000)
"""Tables and vocabularies; the largest published tokenizer.json have about 35 MB."""
RECORD = JsonLimits(size=64 * MIB, marks=1_000_000)
"""One line of a JSON Lines file."""


def parse_json(
    text: bytes | str,
    name: object,
    *,
    limits: JsonLimits = SETTINGS,
    unique: bool = False,
    fix: str = "check the file",
) -> Any:
    """The value of a JSON text.

    Args:
      text: JSON; bytes are UTF-8, with or without a byte order mark.
      name: the path or place, for messages.
      limits: what is parsed at most.
      unique: refuse objects that have a name twice, instead of taking the last.
      fix: what the message advises.

    Raises:
      UserError: it is too large or nested too deep, not UTF-8, or not JSON.
    """
    if len(text) > limits.size:
        reason = (
            f"has {size_text(len(text))} of JSON, and at most {size_text(limits.size)} are read"
        )
        raise UserError(name, reason, fix)
    if (marks := _marks(text)) > limits.marks:
        raise UserError(name, f"has more than {limits.marks:,} JSON values ({marks:,})", fix)
    try:
        if isinstance(text, bytes):
            if encoding := other_encoding(text[:4]):
                raise UserError(name, f"is {encoding}", fix)
            text = text.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError as error:
        raise _too_deep(name, limits, fix) from error
    except UnicodeDecodeError as error:
        raise UserError(name, f"is not UTF-8: {error.reason} at {error.start}", fix) from error
    except ValueError as error:  # JSONDecodeError, an integer of too many digits, a name twice
        raise UserError(name, f"is not JSON: {error}", fix) from error
    if marks > limits.depth and _is_deeper(value, limits.depth):
        raise _too_deep(name, limits, fix)
    return value


def read_json(
    path: str | Path,
    *,
    limits: JsonLimits = SETTINGS,
    unique: bool = False,
    fix: str = "check the file",
) -> Any:
    """The value of a JSON file.

    Raises:
      UserError: as `parse_json`; also when it is missing, not a regular file, or unreadable.
    """
    data = read_bytes(path, limits.size, fix=fix)
    return parse_json(data, path, limits=limits, unique=unique, fix=fix)


def _marks(text: bytes | str) -> int:
    if isinstance(text, bytes):
        return sum(map(text.count, (b",", b":", b"[", b"{")))
    return sum(map(text.count, (",", ":", "[", "{")))


def _too_deep(name: object, limits: JsonLimits, fix: str) -> UserError:
    return UserError(name, f"has JSON nested more than {limits.depth} deep", fix)


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether containers are nested more than `depth` deep; looks at one level after the other."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(parent: dict | list) -> Iterable[Any]:
    values = parent.values() if isinstance(parent, dict) else parent
    return (child for child in values if isinstance(child, (dict, list)))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return result


def json_lines(
    path: str | Path, *, limits: JsonLimits = RECORD, fix: str = "check the file"
) -> Iterator[tuple[bytes, Any]]:
    """Each line with its value; empty lines are left out.

    A line that a killed process left half-written, that is longer than the limits, or that is
    something else than JSON comes as (b"", None); the next one is read as ever. At most one line is
    held.

    Args:
      path: a regular file.
      limits: of a line.
      fix: what the message advises.

    Raises:
      UserError: it does not exist, is no regular file, or cannot be read.
    """
    with regular_file(path, fix=fix) as file:
        while line := file.readline(limits.size + 1):
            whole = line.endswith(b"\n") or len(line) <= limits.size
            while not (line.endswith(b"\n") or len(line) <= limits.size):
                line = file.readline(limits.size + 1)  # the rest of one that is too long
            if not whole:
                yield b"", None
            elif line.strip():
                try:
                    yield line, parse_json(line, path, limits=limits)
                except UserError:
                    yield b"", None


_HALVES = re.compile("[\ud800-\udfff]")


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """The JSON of plain data, with characters as they are.

    Halves of characters, by which Python keeps the bytes of names that are not UTF-8, are escaped,
    so that the text can be written and a reader gets the same name back.

    Args:
      value: plain data.
      indent: spaces of a level; None for a single line.
      ascii_only: escape all that is not ASCII.
    """
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    return _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
