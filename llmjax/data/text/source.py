"""Sources of text: what each kind offers, and what it holds as a hash of its content.

Cheap to import: libraries are imported when a source is read. A cache under the key of another
content is never read.
"""

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, TypeAlias

from llmjax.data.text.reading import compressed, expand
from llmjax.errors import UserError
from llmjax.registry import Registry
from llmjax.storage.cache_folders import write_file
from llmjax.storage.checksums import CHECKSUM, check_checksum, with_checksum
from llmjax.storage.json_documents import read_json
from llmjax.storage.writing import cache_root

REMEMBERED = 64 << 20
"""Larger files are hashed once and remembered by what the file system says of them."""
SETTLED_SECONDS = 3.0
"""A file changed this recently could change again without the file system's clock showing it."""


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


class Source(ABC):
    """Where documents are read. Subclasses are frozen dataclasses."""

    endings: ClassVar[tuple[str, ...]] = ()
    """Endings of file names that mean this kind on the command line."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in SOURCES and in configs."""

    @property
    @abstractmethod
    def weight(self) -> float:
        """Share of rows taken from this source, relative to the other sources' weights."""

    @property
    def location(self) -> str:
        """What it names: paths, a data set; empty where it names nothing."""
        return ""

    def problems(self) -> list[str]:
        """Everything wrong with the values, a line each; nothing is read from disk."""
        return []

    @abstractmethod
    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        """Streams the documents, in a fixed order; empty ones are left out.

        Args:
          cache_dir: for what has to be prepared (see DataConfig.cache_dir).

        Raises:
          UserError: while reading, where a file is missing or broken; it names file and place.
        """

    @abstractmethod
    def identify(self, cache_dir: str | None = None) -> Identity:
        """Hashes all that `documents` depends on.

        Raises:
          UserError: a file is missing, a name is unknown, an extra is not installed.
        """

    def pinned(self) -> "Source":
        """The same source for ever: a data set that may change, at its present version."""
        return self

    def __str__(self) -> str:
        return f"source of kind {self.kind!r}" + (f" ({self.location})" if self.location else "")


SOURCES = Registry[Source](
    "source",
    {
        "embedded": "llmjax.data.text.tfds:EmbeddedSource",
        "text": "llmjax.data.text.text_files:TextSource",
        "jsonl": "llmjax.data.text.text_files:JsonlSource",
        "parquet": "llmjax.data.text.parquet:ParquetSource",
        "tfds": "llmjax.data.text.tfds:TfdsSource",
        "hub": "llmjax.data.text.hub:HubSource",
    },
)


AnySource: TypeAlias = Annotated[Source, SOURCES]
"""For config fields."""


@dataclass(frozen=True)
class FileSource(Source):
    """A source of local files."""

    paths: tuple[str, ...]
    """Files and globs (`**` goes through folders)."""

    @property
    def location(self) -> str:
        return ", ".join(self.paths)

    def problems(self) -> list[str]:
        if isinstance(self.paths, str):
            return [f"paths {self.paths!r} is a string, not a tuple of strings"]
        return [] if self.paths else [f"a {self.kind} source names no paths"]

    def identify(self, cache_dir: str | None = None) -> Identity:
        paths = expand(self.paths)
        plain = not any(compressed(path) for path in paths)
        return identify_files([self.kind, *self.reading], paths, cache_dir, text=plain)

    @property
    @abstractmethod
    def reading(self) -> tuple[object, ...]:
        """The settings that decide which documents the files hold."""


def identify_settings(settings: Sequence[object]) -> Identity:
    """The identity of a source that its settings alone describe."""
    return Identity(
        hashlib.blake2b(json.dumps(list(settings)).encode(), digest_size=16).hexdigest()
    )


def identify_files(
    settings: Sequence[object], paths: list[Path], cache_dir: str | None, *, text: bool
) -> Identity:
    """The identity of files that are read with these settings.

    Args:
      settings: JSON.
      paths: of the files, in order.
      cache_dir: where hashes of large files are remembered.
      text: whether the files hold nothing but text.
    """
    stats = tuple((path, _stat(path)) for path in paths)
    hashes = [[path.suffix.lower(), _file_hash(path, stat, cache_dir)] for path, stat in stats]
    size = sum(stat[0] for _, stat in stats) if text else None
    return Identity(identify_settings([*settings, hashes]).digest, stats, size)


def _stat(path: Path) -> tuple[int, ...]:
    """Size first, then all that changes when the content does."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}", "check the path") from error
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def _file_hash(path: Path, stat: tuple[int, ...], cache_dir: str | None) -> str:
    name = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=16).hexdigest()
    note = cache_root(cache_dir) / "hashes" / f"{name}.json"
    if stat[0] > REMEMBERED and (remembered := _remembered(note, stat)):
        return remembered
    try:
        with path.open("rb") as file:
            hash_ = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}", "check the file") from error
    settled = time.time_ns() - max(stat[1], stat[2]) > SETTLED_SECONDS * 1e9
    if stat[0] > REMEMBERED and settled and _stat(path) == stat:
        write_file(note, json.dumps(with_checksum({"stat": stat, "hash": hash_})).encode())
    return hash_


def _remembered(note: Path, stat: tuple[int, ...]) -> str | None:
    """The hash that an earlier process computed, where the file is as it was then."""
    if not note.is_file():
        return None
    try:
        stored = read_json(note)
        kept = check_checksum(stored, note) if CHECKSUM in stored else {}
    except (UserError, TypeError):  # damaged: hashed again
        return None
    return str(kept["hash"]) if kept.get("stat") == list(stat) else None
