"""The verbs `decompress` and `inspect`."""

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llmjax.compress.archive import MODEL, STORED, ZSTD, Archive, damaged
from llmjax.compress.members import (
    STREAM,
    check_target,
    checked_members,
    new_file,
    new_folder,
    spooled_input,
)
from llmjax.compress.progress import Progress, no_progress
from llmjax.errors import UserError

if TYPE_CHECKING:
    from llmjax.compress.lanes import Walker

KINDS = {STORED: "stored", ZSTD: "zstd", MODEL: "model"}
logger = logging.getLogger(__name__)


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


def decompress(
    run: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Decompression:
    """Makes of an archive the very bytes that it was made of; nothing is left where that fails.

    Args:
      run: the run folder that compressed it, or a copy.
      source: the archive; - for standard input.
      target: a new file (for an archive of a folder, a new folder); - for standard output.
      overwrite: replace an existing file.
      progress: told how far things are.

    Raises:
      UserError: the archive is damaged, of another model, tokenizer or surroundings, or the
        target cannot be written.
    """
    began = time.perf_counter()
    with _opened(source) as file:
        members = Archive.open(file).header.get("files")
        if members is None:
            with new_file(str(target), overwrite) as out:
                size, header, start = decode_archive(run, file, out.write, progress)
        else:
            check_target(str(target), False)
            with new_folder(str(target), members) as folder:
                size, header, start = decode_archive(run, file, folder.write, progress)
    files = sum(member[3] >= 0 for member in members) if members is not None else 1
    seconds = time.perf_counter() - began
    return Decompression(str(target), header["size"], size, files, seconds, start)


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
    with _opened(archive) as file:
        found = Archive.open(file)
        counts, sizes = dict.fromkeys(KINDS.values(), 0), dict.fromkeys(KINDS.values(), 0)
        for kind, content in found.frames():
            counts[KINDS[kind]] += 1
            sizes[KINDS[kind]] += len(content)
        if found.header.get("files") is not None:
            checked_members(found.header["files"])
        return found.header | {
            "archive_bytes": found.size,
            "header_bytes": found.header_size,
            "sha256": found.original_digest().hex(),
            "frames": counts,
            "frame_bytes": sizes,
        }


def decode_archive(
    run: str | Path, file: BinaryIO, write: Callable[[bytes], Any], progress: Progress
) -> tuple[int, dict[str, Any], float]:
    """Decodes an archive in a seekable file.

    Args:
      run: the run folder.
      file: the archive, at its beginning.
      write: takes the original, part by part; worth nothing before this returns.
      progress: told how far things are.

    Returns:
      The archive's size, its header, and the seconds until the model was ready.

    Raises:
      UserError: see `decompress`.
    """
    file.seek(0)
    archive = Archive.open(file)
    engine = _Engine(run, archive.header)
    digest, done, total = hashlib.sha256(), 0, archive.header["size"]
    from llmjax.compress.frames import FRAME, decode_frame

    for kind, content in archive.frames():

        def report(share: float, _: float, done: int = done) -> None:
            progress("Decompressing", done + share * min(FRAME, total - done), total, 0)

        data = decode_frame(lambda: engine.walker, kind, content, report)
        digest.update(data)
        write(data)
        done += len(data)
    if done != total or digest.digest() != archive.original_digest():
        raise UserError("the archive", "decodes to other bytes than it was made of (SHA-256)")
    return archive.size, archive.header, engine.start_seconds


@contextlib.contextmanager
def _opened(source: str | Path) -> Iterator[BinaryIO]:
    """The archive, seekable."""
    if str(source) == STREAM:
        with spooled_input() as (spool, _):
            yield spool
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(source, f"{error.strerror}") from error
    with file:
        yield file


class _Engine:
    """The model of an archive, loaded and checked when a frame first needs it."""

    def __init__(self, run: str | Path, header: dict[str, Any]):
        self._run, self._header, self.start_seconds = run, header, 0.0

    @cached_property
    def walker(self) -> "Walker":
        """Ready to decode.

        Raises:
          UserError: this is not the model or tokenizer of the archive, or it computes otherwise.
        """
        from llmjax.compress.fingerprint import changes, environment, model_fingerprint
        from llmjax.compress.lanes import Shape, Walker
        from llmjax.compress.stream import canary
        from llmjax.language_model import load
        from llmjax.scoring import window_sizes

        began, header = time.perf_counter(), self._header
        try:
            shape = Shape(*(int(header[name]) for name in ("lanes", "context", "stride")))
            windows, surroundings = bool(header["windows"]), dict(header["environment"])
            wanted = {name: str(header[name]) for name in ("model", "tokenizer", "canary")}
            step, dtype = int(header["step"]), header["dtype"]
        except (KeyError, TypeError, ValueError) as error:
            raise damaged("its header lacks something") from error
        if dtype not in ("float32", "bfloat16") or not 1 <= shape.lanes <= 1 << 16:
            raise damaged("its header asks for what cannot be")
        lm = load(self._run, step=step, dtype=dtype)
        _same("tokenizer", wanted["tokenizer"], lm.tokenizer.fingerprint, self._run)
        _same("model", wanted["model"], model_fingerprint(lm), self._run)
        window_sizes(lm.model.config, shape.context, shape.stride)
        walker = Walker(lm, shape)
        differing = changes(surroundings, environment())
        if canary(walker, windows) != wanted["canary"]:
            why = "; ".join(differing) or "the number of lanes or windows was changed"
            reason = f"the model computes other frequencies here than where it compressed ({why})"
            raise UserError("canary", reason, "decompress where the archive was made")
        if differing:
            logger.warning("made elsewhere (%s); the canary agrees", "; ".join(differing))
        self.start_seconds = time.perf_counter() - began
        return walker


def _same(what: str, wanted: str, found: str, run: str | Path) -> None:
    if wanted != found:
        reason = f"its {what} is {found[:16]}, the archive was made with {wanted[:16]}"
        raise UserError(run, reason, "give the run folder that compressed it")
