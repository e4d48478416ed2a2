"""Checksums of a checkpoint's files: written before it becomes visible, verified when it is read.

CRC-32 finds every burst of flipped bits up to 32 long and misses other damage once in 4e9; it is no
defence against someone who means harm. Orbax itself stores no checksum of array data.
"""

import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "checksums.json"
# Orbax still writes these after the checksums are taken.
LATER = {NAME, "_CHECKPOINT_METADATA", "commit_success.txt"}
CHUNK = 1 << 22


def write(folder: Path) -> None:
    """Writes `folder`/checksums.json: relative path -> [bytes, CRC-32] of every file in it."""
    files = _files(folder)
    with ThreadPoolExecutor() as pool:
        sums = dict(zip(files, pool.map(lambda name: _checksum(folder / name), files), strict=True))
    temporary = folder / f".{NAME}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(sums, file, indent=0)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def damage(folder: Path, item: str | None = None, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, in a few words; None if they are as written.

    Args:
      folder: the checkpoint.
      item: check only the files of this folder in it; None for all.
      part, parts: check only every `parts`-th file, from `part` on: processes share the work.
    """
    try:
        expected = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {NAME}"
    except (OSError, ValueError) as error:
        return f"its {NAME} cannot be read: {error}"
    if not isinstance(expected, dict):
        return f"its {NAME} is damaged"
    chosen = [(name, sums) for name, sums in expected.items() if item in (None, name.split("/")[0])]
    mine = chosen[part::parts]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda item: _differs(folder / item[0], item[1]), mine)
        return next(filter(None, found), None)


def _differs(path: Path, expected: list[int]) -> str | None:
    try:
        if path.stat().st_size != expected[0]:
            return f"{path.name} has {path.stat().st_size} bytes instead of {expected[0]}"
        return None if _checksum(path) == expected else f"{path.name} fails its checksum"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"


def _checksum(path: Path) -> list[int]:
    size = crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _files(folder: Path) -> list[str]:
    inside = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in inside if path.name not in LATER)
