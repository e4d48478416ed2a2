"""`llmjax.decompress` restores the bytes of an archive; `llmjax.inspect` reads its header."""

import time
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from llmjax.compression.archive import KINDS, Archive
from llmjax.compression.inputs import open_seekable
from llmjax.compression.outputs import check_output, new_file, new_folder
from llmjax.compression.progress import Progress, no_progress
from llmjax.run.config.options import keyword_options


@dataclass(frozen=True)
class DecompressionResult:
    """The result of decompressing an archive.

    Attributes:
      target: the output path.
      bytes: size of the original.
      archive_bytes: size of the archive.
      files: number of files; 1 for a file or stream.
      seconds: wall-clock time, including compilation.
      compile_seconds: part of `seconds` until the determinism check passed.
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
    """Replace OUT if it exists and is a file."""


@keyword_options()
def decompress(
    run: str | PathLike[str],
    source: str | Path,
    target: str | Path,
    options: DecompressOptions,
    *,
    progress: Progress = no_progress,
) -> DecompressionResult:
    """Restores the original of an archive; leaves nothing behind on failure.

    Args:
      run: the run folder that compressed it, or a copy.
      source: the archive; - for standard input.
      target: a new file (for an archive of a folder, a new folder); - for standard output.
      options: fields of DecompressOptions, also as keywords.
      progress: called with the progress of decompression.

    Raises:
      UserError: the archive is damaged or was made with another model, tokenizer or environment,
        or the target cannot be written.
    """
    began, target = time.perf_counter(), str(target)
    check_output(target, options.overwrite, str(source))
    with open_seekable(str(source)) as file:
        archive = Archive.open(file)
        header = archive.header
        members, mode, modified = (header.get(name) for name in ("files", "mode", "time"))
        if members is not None:
            check_output(target, False)
        from llmjax.compression.decoder import Decoder  # imports JAX

        decoder = Decoder(run, archive)
        if members is None:
            with new_file(target, options.overwrite, 0o666 if mode is None else mode) as out:
                decoder.decode(out.write, "Decompressing", progress)
        else:
            with new_folder(target, members, 0o777 if mode is None else mode, modified) as folder:
                decoder.decode(folder.write, "Decompressing", progress)
    files = sum(member[3] >= 0 for member in members) if members is not None else 1
    seconds = time.perf_counter() - began
    return DecompressionResult(
        target, header["size"], archive.size, files, seconds, decoder.start_seconds
    )


def inspect(archive: str | Path) -> dict[str, Any]:
    """Describes an archive after verifying its checksum; needs no model.

    Args:
      archive: the file; - for standard input.

    Returns:
      The header, and "archive_bytes", "header_bytes", "sha256", "frames" and "frame_bytes" (number
      and total size of each kind of frame).

    Raises:
      UserError: it is not an archive, or is damaged.
    """
    with open_seekable(str(archive)) as file:
        opened = Archive.open(file)
        counts, sizes = dict.fromkeys(KINDS.values(), 0), dict.fromkeys(KINDS.values(), 0)
        for kind, content in opened.frames():
            counts[KINDS[kind]] += 1
            sizes[KINDS[kind]] += len(content)
        return opened.header | {
            "archive_bytes": opened.size,
            "header_bytes": opened.header_size,
            "sha256": opened.original_digest().hex(),
            "frames": counts,
            "frame_bytes": sizes,
        }
