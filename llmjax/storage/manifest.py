"""Checksums of a folder's files: written when it is complete, verified when it is read.

CRC-32 finds every burst of flipped bits up to 32 long and misses other damage once in 4e9; it is no
defence against someone who means harm.
"""

import json
import os
import zlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmjax.errors import UserError
from llmjax.storage.json_documents import read_json
from llmjax.storage.writing import write_atomically

NAME = "checksums.json"
CHUNK = 1 << 22


def write(folder: Path, without: Collection[str] = ()) -> None:
    """Writes `folder`/checksums.json: relative path -> [bytes, CRC-32] of every file in it.

    Args:
      folder: complete, but not yet visible under its final name.
      without: names of files that are left out.

    Raises:
      OSError: a file cannot be read, or the folder not be written.
    """
    files = _files(folder, without)
    with ThreadPoolExecutor() as pool:
        sums = dict(zip(files, pool.map(lambda name: _checksum(folder / name), files), strict=True))
    write_atomically(folder / NAME, json.dumps(sums, indent=0))


def damage(
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
        expected = read_json(folder / NAME)
    except UserError as error:
        there = os.path.lexists(folder / NAME)
        return f"its {NAME} cannot be used: {error.reason}" if there else f"it has no {NAME}"
    if not _is_manifest(expected):
        return f"its {NAME} is damaged"
    # Those beside the folders in it, and hidden ones, may be the user's or the system's.
    inside = [name for name in _files(folder, without) if "/" in name and "/." not in name]
    if unknown := next((name for name in inside if name not in expected), None):
        return f"{unknown} is not listed in its {NAME}"
    chosen = [(name, sums) for name, sums in expected.items() if item in (None, name.split("/")[0])]
    if not chosen:
        return f"its {NAME} lists nothing" + (f" of {item}" if item else "")
    mine = chosen[part::parts]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda item: _differs(folder / item[0], item[1]), mine)
        return next(filter(None, found), None)


def _is_manifest(value: object) -> bool:
    """Whether it is {path: [bytes, CRC-32]}."""
    return isinstance(value, dict) and all(
        isinstance(sums, list) and [type(one) for one in sums] == [int, int]
        for sums in value.values()
    )


def _differs(path: Path, expected: list[int]) -> str | None:
    try:
        if path.stat().st_size != expected[0]:
            return f"{path.name} has {path.stat().st_size} bytes instead of {expected[0]}"
        return None if _checksum(path) == expected else f"{path.name} fails its checksum"
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        return f"{path.name} cannot be read: {getattr(error, 'strerror', error)}"


def _checksum(path: Path) -> list[int]:
    size = crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _files(folder: Path, without: Collection[str]) -> list[str]:
    left_out = {NAME, *without}
    inside = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in inside if path.name not in left_out)
