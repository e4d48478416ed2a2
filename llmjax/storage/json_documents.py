"""The JSON parser of llmjax, with limits on size, number of values and depth.

Python's parser turns three bytes (`[],`) into 64 and raises RecursionError on deep nesting, so a
document is measured before any value is created.
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
    """Upper bounds on what is parsed."""

    size: int
    """Bytes of the text."""
    marks: int
    """Commas, colons and opening brackets, including those inside strings: a document has at most
    one more value than these. Each value takes up to about 100 bytes of memory."""
    depth: int = 100
    """Nesting of containers."""


SETTINGS = JsonLimits(size=16 * MIB, marks=1_000_000)
"""Settings: config.json, manifests, records of a run."""
DOCUMENT = JsonLimits(size=256 * MIB, marks=10_000_000)
"""Tables and vocabularies; the largest published tokenizer.json files have about 35 MB."""
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
    """Parse a JSON text.

    Args:
      text: JSON; bytes are UTF-8, with or without a byte order mark.
      name: its path, or path and line, for messages.
      limits: upper bounds on what is parsed.
      unique: refuse objects with duplicate names instead of keeping the last value.
      fix: advice for the error message.

    Raises:
      UserError: the text is too large, nested too deep, not UTF-8, or not JSON.
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
    except ValueError as error:  # JSONDecodeError, too many digits, a duplicate name
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
    """Parse a JSON file.

    Raises:
      UserError: as `parse_json`; also if the file is missing, not regular, or unreadable.
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
    """Whether containers are nested more than `depth` deep, level by level without recursion."""
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
        duplicate = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {duplicate!r} appears twice in one object")
    return result


def json_lines(
    path: str | Path, *, limits: JsonLimits = RECORD, fix: str = "check the file"
) -> Iterator[tuple[bytes, Any]]:
    """Yield each line of a JSON Lines file with its value, skipping empty lines.

    A line that is truncated, too long or not JSON is yielded as (b"", None), and reading continues
    with the next. Only one line is held in memory.

    Args:
      path: a regular file.
      limits: for each line.
      fix: advice for the error message.

    Raises:
      UserError: the file is missing, not regular, or unreadable.
    """
    with regular_file(path, fix=fix) as file:
        while line := file.readline(limits.size + 1):
            fits = line.endswith(b"\n") or len(line) <= limits.size
            while not (line.endswith(b"\n") or len(line) <= limits.size):
                line = file.readline(limits.size + 1)  # skip the rest of an overlong line
            if not fits:
                yield b"", None
            elif line.strip():
                try:
                    yield line, parse_json(line, path, limits=limits)
                except UserError:
                    yield b"", None


_SURROGATES = re.compile("[\ud800-\udfff]")


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Serialize plain data as JSON without escaping non-ASCII characters.

    Lone surrogates, with which Python represents file names that are not UTF-8, are escaped: the
    text can be encoded as UTF-8, and a reader gets the same name back.

    Args:
      value: plain data.
      indent: spaces per level; None for a single line.
      ascii_only: escape everything but ASCII.
    """
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    return _SURROGATES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
