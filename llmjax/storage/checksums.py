"""Checksums: inside a JSON object, and of all files of a folder.

A damaged or changed object, or folder, is refused. This is no defence against someone who means
harm: whoever can change the data can change its checksum, too. CRC-32 finds every burst of flipped
bits up to 32 long and misses other damage once in 4e9.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.json_documents import read_json
from llmjax.storage.writing import write_atomically

CHECKSUM = "checksum"
"""The name under which an object carries its checksum."""


def with_checksum(document: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its checksum as the last member."""
    rest = {name: value for name, value in document.items() if name != CHECKSUM}
    return {**rest, CHECKSUM: _checksum(rest)}


def check_checksum(document: Mapping[str, Any], name: object) -> dict[str, Any]:
    """The object without its checksum, which is compared; one that has none is taken as it is.

    Args:
      document: what was read.
      name: its path, for messages.

    Raises:
      UserError: it is not as it was written.
    """
    rest = {key: value for key, value in document.items() if key != CHECKSUM}
    if CHECKSUM in document and document[CHECKSUM] != _checksum(rest):
        raise UserError(
            name,
            "was changed after it was written (its checksum differs)",
            f'restore it from a copy or, if the change is meant, remove "{CHECKSUM}" from it',
        )
    return rest


def _checksum(document: Mapping[str, Any]) -> str:
    """Of the values, however they are laid out in the file."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


MANIFEST = "checksums.json"
CHUNK = 1 << 22


def write_manifest(folder: Path, without: Collection[str] = ()) -> None:
    """Writes `folder`/checksums.json: relative path -> [bytes, CRC-32] of every file in it.

    Args:
      folder: complete, but not yet visible under its final name.
      without: names of files that are left out.

    Raises:
      OSError: a file cannot be read, or the folder not be written.
    """
    files = _files(folder, without)
    with ThreadPoolExecutor() as pool:
        sums = dict(
            zip(files, pool.map(lambda name: _file_checksum(folder / name), files), strict=True)
        )
    write_atomically(folder / MANIFEST, json.dumps(sums, indent=0))


def find_damage(
    folder: Path,
    item: str | None = None,
    part: int = 0,
    parts: int = 1,
    without: Collection[str] = (),
) -> str | None:
    """What is wrong with a folder's files, in a few words; None if they are as written.

    Args:
      folder: holds checksums.json.
      item: check only the files of this folder in it; None for all.
      part, parts: check only every `parts`-th file, from `part` on: processes share the work.
      without: names of files that were left out.
    """
    try:
        expected = read_json(folder / MANIFEST)
    except UserError as error:
        there = os.path.lexists(folder / MANIFEST)
        return (
            f"its {MANIFEST} cannot be used: {error.reason}" if there else f"it has no {MANIFEST}"
        )
    if not _is_manifest(expected):
        return f"its {MANIFEST} is damaged"
    # Those beside the folders in it, and hidden ones, may be the user's or the system's.
    inside = [name for name in _files(folder, without) if "/" in name and "/." not in name]
    if unknown := next((name for name in inside if name not in expected), None):
        return f"{unknown} is not listed in its {MANIFEST}"
    chosen = [(name, sums) for name, sums in expected.items() if item in (None, name.split("/")[0])]
    if not chosen:
        return f"its {MANIFEST} lists nothing" + (f" of {item}" if item else "")
    mine = chosen[part::parts]
    with ThreadPoolExecutor() as pool:
        problems = pool.map(lambda item: _differs(folder / item[0], item[1]), mine)
        return next(filter(None, problems), None)


def _is_manifest(value: object) -> bool:
    """Whether it is {path: [bytes, CRC-32]}."""
    return isinstance(value, dict) and all(
        isinstance(sums, list) and [type(number) for number in sums] == [int, int]
        for sums in value.values()
    )


def _differs(path: Path, expected: list[int]) -> str | None:
    try:
        if path.stat().st_size != expected[0]:
            return f"{path.name} has {path.stat().st_size} bytes instead of {expected[0]}"
        return None if _file_checksum(path) == expected else f"{path.name} fails its checksum"
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        return f"{path.name} cannot be read: {getattr(error, 'strerror', error)}"


def _file_checksum(path: Path) -> list[int]:
    size = crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _files(folder: Path, without: Collection[str]) -> list[str]:
    left_out = {MANIFEST, *without}
    inside = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in inside if path.name not in left_out)
