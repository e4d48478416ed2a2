"""The verbs `decompress` and `inspect`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.compression.archive import MODEL, STORED, ZSTD, Archive
from llmjax.compression.progress import Progress, no_progress
from llmjax.compression.sources import opened
from llmjax.compression.targets import check_target, new_file, new_folder
from llmjax.run.config.options import keyword_options

KINDS = {STORED: "stored", ZSTD: "zstd", MODEL: "model"}


@dataclass(frozen=True)
class Decompression:
    """What was unpacked.

    Attributes:
      target: where to.
      bytes: of the original.
      archive_bytes: of the archive.
      files: how many there are; 1 for a file or stream.
      seconds: wall-clock time, compiling included.
      compile_seconds: of it, until the canary was right.
    """

    target: str
    bytes: int
    archive_bytes: int
    files: int
    seconds: float
    compile_seconds: float


@dataclass(frozen=True)
class DecompressOptions:
    """Options of decompress."""

    overwrite: bool = False
    """Replace OUT where it exists and is a file."""


@keyword_options()
def decompress(
    run: str | Path,
    source: str | Path,
    target: str | Path,
    options: DecompressOptions,
    *,
    progress: Progress = no_progress,
) -> Decompression:
    """Makes of an archive the very bytes that it was made of; nothing is left where that fails.

    Args:
      run: the run folder that compressed it, or a copy.
      source: the archive; - for standard input.
      target: a new file (for an archive of a folder, a new folder); - for standard output.
      options: fields of DecompressOptions, also as keywords.
      progress: told how far things are.

    Raises:
      UserError: the archive is damaged, of another model, tokenizer or surroundings, or the
        target cannot be written.
    """
    overwrite = options.overwrite
    began, place = time.perf_counter(), str(target)
    check_target(place, overwrite, str(source))
    with opened(str(source)) as file:
        archive = Archive.open(file)
        header = archive.header
        members, mode, changed = (header.get(name) for name in ("files", "mode", "time"))
        if members is not None:
            check_target(place, False)
        from llmjax.compression.engine import Engine  # brings JAX along

        engine = Engine(run, archive)
        if members is None:
            with new_file(place, overwrite, 0o666 if mode is None else mode) as out:
                engine.decode(out.write, "Decompressing", progress)
        else:
            with new_folder(place, members, 0o777 if mode is None else mode, changed) as folder:
                engine.decode(folder.write, "Decompressing", progress)
    files = sum(member[3] >= 0 for member in members) if members is not None else 1
    seconds = time.perf_counter() - began
    return Decompression(place, header["size"], archive.size, files, seconds, engine.start_seconds)


def inspect(archive: str | Path) -> dict[str, Any]:
    """An archive's header and frames, without its model; the seal is checked.

    Args:
      archive: the file; - for standard input.

    Returns:
      The header, and "archive_bytes", "header_bytes", "sha256", and "frames" and "frame_bytes":
      how many of each kind, and their sizes.

    Raises:
      UserError: it is no archive, or damaged.
    """
    with opened(str(archive)) as file:
        found = Archive.open(file)
        counts, sizes = dict.fromkeys(KINDS.values(), 0), dict.fromkeys(KINDS.values(), 0)
        for kind, content in found.frames():
            counts[KINDS[kind]] += 1
            sizes[KINDS[kind]] += len(content)
        return found.header | {
            "archive_bytes": found.size,
            "header_bytes": found.header_size,
            "sha256": found.original_digest().hex(),
            "frames": counts,
            "frame_bytes": sizes,
        }
