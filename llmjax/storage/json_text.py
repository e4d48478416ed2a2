"""JSON as text that UTF-8 can write."""

import json
import re
from typing import Any

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
