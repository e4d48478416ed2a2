"""What a source holds, as a hash of its content: a cache under another key is never read."""

import hashlib
import json
import os
import time
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path

from llmjax.data.config import (
    EmbeddedSource,
    HubSource,
    JsonlSource,
    ParquetSource,
    Source,
    TextSource,
    TfdsSource,
)
from llmjax.data.text.files import write_file
from llmjax.data.text.reading import compressed, expand
from llmjax.errors import UserError
from llmjax.storage.caches import cache_root
from llmjax.storage.json_documents import read_json
from llmjax.storage.seals import SEAL, sealed, unsealed

# Larger files are hashed once and remembered by what the file system says of them.
REMEMBERED = 64 << 20
# A file changed this recently could change again without the file system's clock showing it.
SETTLED_SECONDS = 3.0


@dataclass(frozen=True)
class Identity:
    """What a source holds."""

    digest: str
    """Equal for equal documents read in the same way, wherever the files lie."""
    files: tuple[tuple[Path, tuple[int, ...]], ...] = ()
    """The local files and what the file system said of them before they were hashed."""
    num_bytes: int | None = None
    """About how many bytes of text, where that is known."""

    def check_unchanged(self) -> None:
        """Raises UserError where a file was changed since."""
        for path, before in self.files:
            if _stat(path) != before:
                raise UserError(path, "changed while it was read", "run the same command again")


@singledispatch
def identify(source: Source, cache_dir: str | None = None) -> Identity:
    """Hashes all that `documents(source)` depends on.

    Raises:
      UserError: a file is missing, a name is unknown, an extra is not installed.
    """
    raise TypeError(f"{source!r} is not a source")


@identify.register
def _(source: TextSource, cache_dir: str | None = None) -> Identity:
    chunk = source.chunk_bytes if source.split == "chunk" else None
    return _files(["text", source.split, chunk, source.errors], expand(source.paths), cache_dir)


@identify.register
def _(source: JsonlSource, cache_dir: str | None = None) -> Identity:
    return _files(["jsonl", source.field, source.errors], expand(source.paths), cache_dir)


@identify.register
def _(source: ParquetSource, cache_dir: str | None = None) -> Identity:
    return _files(["parquet", source.column], expand(source.paths), cache_dir)


@identify.register
def _(source: EmbeddedSource, cache_dir: str | None = None) -> Identity:
    from llmjax.data.text.builders.python_docs import python_fingerprint

    return Identity(_digest(["embedded", python_fingerprint()]))


@identify.register
def _(source: TfdsSource, cache_dir: str | None = None) -> Identity:
    from llmjax.data.text.tfds_source import tfds_fingerprint

    name, files = tfds_fingerprint(source)
    return _files(["tfds", name, source.split, source.field], files, cache_dir, text=False)


@identify.register
def _(source: HubSource, cache_dir: str | None = None) -> Identity:
    from llmjax.data.text.hub_source import hub_commit

    what = [source.name, source.subset, source.split, source.field, hub_commit(source)]
    return Identity(_digest(["hub", *what]))


def pinned(source: Source) -> Source:
    """The same source, for ever: a hub data set at the commit that it is at now."""
    if isinstance(source, HubSource):
        from llmjax.data.text.hub_source import hub_commit

        return replace(source, revision=hub_commit(source))
    return source


def _files(
    what: list[object], paths: list[Path], cache_dir: str | None, text: bool = True
) -> Identity:
    stats = tuple((path, _stat(path)) for path in paths)
    hashes = [[path.suffix.lower(), _file_hash(path, stat, cache_dir)] for path, stat in stats]
    plain = text and not any(compressed(path) for path in paths)
    size = sum(stat[0] for _, stat in stats) if plain else None
    return Identity(_digest([*what, hashes]), stats, size)


def _digest(what: list[object]) -> str:
    return hashlib.blake2b(json.dumps(what).encode(), digest_size=16).hexdigest()


def _stat(path: Path) -> tuple[int, ...]:
    """Size first, then all that changes when the content does."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}", "check the path") from error
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def _file_hash(path: Path, stat: tuple[int, ...], cache_dir: str | None) -> str:
    name = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=16).hexdigest()
    note = cache_root(cache_dir) / "hashes" / f"{name}.json"
    if stat[0] > REMEMBERED and (remembered := _remembered(note, stat)):
        return remembered
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}", "check the file") from error
    settled = time.time_ns() - max(stat[1], stat[2]) > SETTLED_SECONDS * 1e9
    if stat[0] > REMEMBERED and settled and _stat(path) == stat:
        write_file(note, json.dumps(sealed({"stat": stat, "hash": found})).encode())
    return found


def _remembered(note: Path, stat: tuple[int, ...]) -> str | None:
    """The hash that an earlier process found, where the file is as it was then."""
    if not note.is_file():
        return None
    try:
        stored = read_json(note)
        kept = unsealed(stored, note) if SEAL in stored else {}
    except (UserError, TypeError):  # damaged: hashed again
        return None
    return str(kept["hash"]) if kept.get("stat") == list(stat) else None
