"""JSON Lines within limits: one value after the other, whatever the file holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.bounded import regular_file
from llmjax.storage.json_documents import RECORD, JsonLimits, parse_json


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
