"""Checksums of JSON objects and of the files in a folder.

They detect accidental damage, not tampering: whoever can change the data can change its checksum.
CRC-32 detects every burst of flipped bits up to 32 long and misses other damage once in 4e9.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.json_documents import read_json
from llmjax.storage.writing import write_atomically

CHECKSUM = "checksum"
"""The key of an object's checksum."""


def with_checksum(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object with its checksum as the last member."""
    rest = {name: value for name, value in document.items() if name != CHECKSUM}
    return {**rest, CHECKSUM: _checksum(rest)}


def check_checksum(document: Mapping[str, Any], name: object) -> dict[str, Any]:
    """Verify an object's checksum, if it has one, and return the object without it.

    Args:
      document: the object as read.
      name: its path, for messages.

    Raises:
      UserError: the checksum does not match.
    """
    rest = {key: value for key, value in document.items() if key != CHECKSUM}
    if CHECKSUM in document and document[CHECKSUM] != _checksum(rest):
        raise UserError(
            name,
            "was changed after it was written (its checksum differs)",
            f'restore it from a copy or, if you changed it on purpose, remove "{CHECKSUM}" from it',
        )
    return rest


def _checksum(document: Mapping[str, Any]) -> str:
    """SHA-256 of the values, independent of the file's formatting."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


MANIFEST = "checksums.json"
CHUNK = 1 << 22


def file_checksums(folder: Path, names: Sequence[str]) -> dict[str, list[int]]:
    """The checksums of files: path -> [bytes, CRC-32].

    Args:
      folder: the folder.
      names: paths of files in it.

    Raises:
      OSError: a file cannot be read.
    """
    with ThreadPoolExecutor() as pool:
        sums = pool.map(lambda name: _file_checksum(folder / name), names)
        return dict(zip(names, sums, strict=True))


def write_manifest(
    folder: Path, without: Collection[str] = (), known: Mapping[str, list[int]] | None = None
) -> None:
    """Write `folder`/checksums.json: relative path -> [bytes, CRC-32] of every file.

    Args:
      folder: complete, but not yet visible under its final name.
      without: names of files to leave out.
      known: checksums that whoever wrote the files has computed; they are not read again.

    Raises:
      OSError: a file cannot be read, or the manifest cannot be written.
    """
    files, known = _files(folder, without), dict(known or {})
    sums = known | file_checksums(folder, [name for name in files if name not in known])
    document = {name: sums[name] for name in files}
    write_atomically(folder / MANIFEST, json.dumps(document, indent=0))


def find_damage(
    folder: Path,
    item: str | None = None,
    part: int = 0,
    parts: int = 1,
    without: Collection[str] = (),
    needed: Callable[[str], bool] = lambda name: True,
) -> str | None:
    """Verify a folder against its checksums.json.

    Args:
      folder: the folder.
      item: verify only this subfolder; None for everything.
      part, parts: verify only every `parts`-th file, starting at `part`, to share the work among
        processes.
      without: names of files that the manifest leaves out.
      needed: which of the files to verify, by their paths in the folder.

    Returns:
      A short description of the first problem; None if the files are intact.
    """
    try:
        expected = read_json(folder / MANIFEST)
    except UserError as error:
        exists = os.path.lexists(folder / MANIFEST)
        return (
            f"its {MANIFEST} cannot be used: {error.reason}" if exists else f"it has no {MANIFEST}"
        )
    if not _is_manifest(expected):
        return f"its {MANIFEST} is damaged"
    # Files at the top level and hidden files may belong to the user or the system.
    stored = [name for name in _files(folder, without) if "/" in name and "/." not in name]
    if unknown := next((name for name in stored if name not in expected), None):
        return f"{unknown} is not listed in its {MANIFEST}"
    listed = [(name, sums) for name, sums in expected.items() if item in (None, name.split("/")[0])]
    if not listed:
        return f"its {MANIFEST} lists nothing" + (f" of {item}" if item else "")
    ours = [(name, sums) for name, sums in listed[part::parts] if needed(name)]
    with ThreadPoolExecutor() as pool:
        problems = pool.map(lambda entry: _file_damage(folder / entry[0], entry[1]), ours)
        return next(filter(None, problems), None)


def _is_manifest(value: object) -> bool:
    """Whether a value is {path: [bytes, CRC-32]}."""
    return isinstance(value, dict) and all(
        isinstance(sums, list) and [type(number) for number in sums] == [int, int]
        for sums in value.values()
    )


def _file_damage(path: Path, expected: list[int]) -> str | None:
    try:
        if path.stat().st_size != expected[0]:
            return f"{path.name} has {path.stat().st_size} bytes instead of {expected[0]}"
        return None if _file_checksum(path) == expected else f"{path.name} fails its checksum"
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        return f"{path.name} cannot be read: {getattr(error, 'strerror', error)}"


def _file_checksum(path: Path) -> list[int]:
    """[bytes, CRC-32]."""
    size = crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _files(folder: Path, without: Collection[str]) -> list[str]:
    excluded = {MANIFEST, *without}
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in paths if path.name not in excluded)
