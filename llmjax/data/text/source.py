"""Text sources: their interface, their registry, and hashes of their content as cache keys.

Cheap to import: libraries are imported when a source is read.
"""

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, TypeAlias

from llmjax.data.text.filters import AnyFilter, FilterChain, RawDocument
from llmjax.data.text.reading import compressed, expand
from llmjax.errors import UserError
from llmjax.registry import Registry
from llmjax.storage.cache_folders import write_file
from llmjax.storage.checksums import CHECKSUM, check_checksum, with_checksum
from llmjax.storage.json_documents import read_json
from llmjax.storage.stores.path import Location, StorePath
from llmjax.storage.writing import cache_root

REMEMBERED = 64 << 20
"""The hashes of larger files are stored, and reused while the files' metadata stay the same."""
SETTLED_SECONDS = 3.0
"""A file changed this recently may change again without a new time stamp."""


@dataclass(frozen=True)
class Identity:
    """A source's content, identified by a hash."""

    digest: str
    """Equal for equal documents read with equal settings, wherever the files are."""
    files: tuple[tuple[Location, tuple[int | str, ...]], ...] = ()
    """The files, and their metadata from before they were hashed."""
    num_bytes: int | None = None
    """Approximate bytes of text, if known."""

    def check_unchanged(self) -> None:
        """Raises a UserError if a file has changed since."""
        for path, before in self.files:
            if _stat(path) != before:
                raise UserError(path, "changed while it was read", "run the same command again")


class Source(ABC):
    """A source of documents. Subclasses are frozen dataclasses."""

    endings: ClassVar[tuple[str, ...]] = ()
    """File name suffixes that select this kind on the command line."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in SOURCES and in configs."""

    @property
    @abstractmethod
    def weight(self) -> float:
        """Share of rows taken from this source, relative to the other sources' weights."""

    @property
    def filters(self) -> tuple[AnyFilter, ...]:
        """Applied to its documents, in this order."""
        return ()

    @property
    def location(self) -> str:
        """Paths or name of the data set, for messages; may be empty."""
        return ""

    def problems(self) -> list[str]:
        """Every problem with the values, one line each; nothing is read from disk."""
        return []

    @abstractmethod
    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        """Streams the documents in a fixed order, without empty ones, before its filters.

        Args:
          cache_dir: see DataConfig.cache_dir.

        Raises:
          UserError: a file is missing or damaged; the message names file and position.
        """

    def raw_documents(self, cache_dir: str | None = None) -> Iterator[RawDocument]:
        """As `documents`, with what the source says of them, which filters may use."""
        return map(RawDocument, self.documents(cache_dir))

    @abstractmethod
    def identify(self, cache_dir: str | None = None) -> Identity:
        """Hashes everything that `documents` depends on.

        Raises:
          UserError: a file is missing, a name is unknown, an extra is not installed.
        """

    def parts(self, cache_dir: str | None = None) -> "Sequence[Source]":
        """Sources whose documents, one after the other, are this source's; each can be read alone.

        Args:
          cache_dir: see DataConfig.cache_dir.

        Raises:
          UserError: a file is missing.
        """
        return [self]

    def pinned(self) -> "Source":
        """The source pinned to its current version, if it is a data set that may change."""
        return self

    def __str__(self) -> str:
        return f"source of kind {self.kind!r}" + (f" ({self.location})" if self.location else "")


SOURCES = Registry[Source](
    "source",
    {
        "embedded": "llmjax.data.text.tfds:EmbeddedSource",
        "packages": "llmjax.data.text.packages:PackagesSource",
        "text": "llmjax.data.text.text_files:TextSource",
        "jsonl": "llmjax.data.text.text_files:JsonlSource",
        "parquet": "llmjax.data.text.parquet:ParquetSource",
        "tfds": "llmjax.data.text.tfds:TfdsSource",
        "hub": "llmjax.data.text.hub:HubSource",
        "warc": "llmjax.data.datatrove.readers:WarcSource",
        "csv": "llmjax.data.datatrove.readers:CsvSource",
        "ipc": "llmjax.data.datatrove.readers:IpcSource",
        "datatrove_jsonl": "llmjax.data.datatrove.readers:DatatroveJsonlSource",
        "datatrove_parquet": "llmjax.data.datatrove.readers:DatatroveParquetSource",
        "datatrove_hub": "llmjax.data.datatrove.hub:DatatroveHubSource",
    },
)


AnySource: TypeAlias = Annotated[Source, SOURCES]
"""Type of config fields that take any source."""


@dataclass(frozen=True)
class FileSource(Source):
    """A source of files, local or in a bucket."""

    paths: tuple[str, ...]
    """Files and globs (`**` matches nested folders), local or at gs:// and s3:// addresses."""

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

    def parts(self, cache_dir: str | None = None) -> Sequence[Source]:
        """One per file."""
        return [replace(self, paths=(str(path.absolute()),)) for path in expand(self.paths)]

    @property
    @abstractmethod
    def reading(self) -> tuple[object, ...]:
        """The settings that determine the documents of the files."""


def identify_filtered(source: Source, cache_dir: str | None) -> Identity:
    """Identifies the documents of a source that its filters keep.

    Raises:
      UserError: as `Source.identify` and `Filter.identify`.
    """
    identity = source.identify(cache_dir)
    if not source.filters:
        return identity
    filters = [filter.identify(cache_dir) for filter in source.filters]
    return replace(identity, digest=json_digest([identity.digest, "filters", filters]))


def filtered(
    source: Source, cache_dir: str | None = None, chain: FilterChain | None = None
) -> Iterator[str]:
    """The documents of a source that its filters keep; `chain`, made of them, counts the others.

    Raises:
      UserError: as `Source.documents`, or a filter fails.
    """
    if not source.filters:
        return source.documents(cache_dir)
    chain = chain or FilterChain(source.filters)
    return (raw.text for raw in source.raw_documents(cache_dir) if chain.keep(raw))


def json_digest(values: Sequence[object]) -> str:
    """A hash of JSON values, for keys of the cache."""
    return hashlib.blake2b(json.dumps(list(values)).encode(), digest_size=16).hexdigest()


def identify_settings(settings: Sequence[object]) -> Identity:
    """Identifies a source by its settings alone."""
    return Identity(json_digest(settings))


def identify_files(
    settings: Sequence[object], paths: Sequence[Location], cache_dir: str | None, *, text: bool
) -> Identity:
    """Identifies a source by its files' content and the settings they are read with. An object in a
    bucket is identified by its size and its ETag or generation, without reading it.

    Args:
      settings: JSON values.
      paths: of the files, in order.
      cache_dir: stores the hashes of large files.
      text: whether the files consist of text alone.
    """
    stats = tuple((path, _stat(path)) for path in paths)
    hashes = [[path.suffix.lower(), _content_hash(path, stat, cache_dir)] for path, stat in stats]
    size = sum(int(stat[0]) for _, stat in stats) if text else None
    return Identity(json_digest([*settings, hashes]), stats, size)


def _stat(path: Location) -> tuple[int | str, ...]:
    """Metadata that change with the content; the size first."""
    if isinstance(path, StorePath):
        info = path.info()
        return info.size, info.version
    return _file_stat(path)


def _file_stat(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}", "check the path") from error
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def _content_hash(path: Location, stat: tuple[int | str, ...], cache_dir: str | None) -> str:
    if isinstance(path, StorePath):
        return f"{stat[0]} bytes, {path.scheme} version {stat[1]}"
    return _file_hash(path, tuple(map(int, stat)), cache_dir)


def file_hash(path: Path, cache_dir: str | None) -> str:
    """A hash of a file's content; that of a large one is stored in the cache."""
    return _file_hash(path, _file_stat(path), cache_dir)


def _file_hash(path: Path, stat: tuple[int, ...], cache_dir: str | None) -> str:
    name = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=16).hexdigest()
    record = cache_root(cache_dir) / "hashes" / f"{name}.json"
    if stat[0] > REMEMBERED and (stored := _stored_hash(record, stat)):
        return stored
    try:
        with path.open("rb") as file:
            hash_ = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}", "check the file") from error
    settled = time.time_ns() - max(stat[1], stat[2]) > SETTLED_SECONDS * 1e9
    if stat[0] > REMEMBERED and settled and _file_stat(path) == stat:
        write_file(record, json.dumps(with_checksum({"stat": stat, "hash": hash_})).encode())
    return hash_


def _stored_hash(record: Path, stat: tuple[int, ...]) -> str | None:
    """The hash of an earlier process, if the file's metadata are still the same."""
    if not record.is_file():
        return None
    try:
        stored = read_json(record)
        content = check_checksum(stored, record) if CHECKSUM in stored else {}
    except (UserError, TypeError):  # damaged: the file is hashed again
        return None
    return str(content["hash"]) if content.get("stat") == list(stat) else None
