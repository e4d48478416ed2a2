"""Checksums of a checkpoint: written before it becomes visible, verified when it is read.

Orbax itself stores no checksum of array data.
"""

from pathlib import Path

from llmjax.storage import manifest

# Orbax still writes these after the checksums are taken.
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")


def write(folder: Path) -> None:
    """Writes the checksums of all files of a checkpoint; OSError where that is impossible."""
    manifest.write(folder, LATER)


def damage(folder: Path, item: str | None = None, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, in a few words; None if they are as written.

    Args:
      folder: the checkpoint.
      item: check only the files of this folder in it; None for all.
      part, parts: check only every `parts`-th file, from `part` on: processes share the work.
    """
    return manifest.damage(folder, item, part, parts, LATER)
