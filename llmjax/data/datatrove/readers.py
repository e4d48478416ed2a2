"""Files read by datatrove's readers as sources: WARC, CSV, Arrow, and others with all columns.

datatrove reads one file at a time through `OneFile`, which bounds and checks what it gives.
"""

import contextlib
import csv
import dataclasses
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Literal

from llmjax.data.datatrove.library import construct, versions
from llmjax.data.text.filters import AnyFilter, RawDocument
from llmjax.data.text.reading import (
    LARGEST_DOCUMENT,
    decode,
    expand,
    open_seekable,
    read_blocks,
    split_lines,
)
from llmjax.data.text.source import FileSource
from llmjax.errors import UserError
from llmjax.storage.bounded import size_text
from llmjax.storage.stores.path import Location

# Arrow's exceptions are among them.
_DAMAGE = (AttributeError, EOFError, LookupError, OSError, TypeError, ValueError, csv.Error)


class _Stream(io.RawIOBase):
    """The decompressed content of a file, as a stream that cannot be rewound."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks, self._rest, self._place = blocks, b"", 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            if (block := next(self._blocks, None)) is None:
                return 0
            self._rest = block
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        self._place += len(part)
        return len(part)


class OneFile:
    """A file in place of datatrove's DataFolder: decompressed by its suffix, with our bounds."""

    def __init__(self, path: Location, seekable: bool):
        self._path, self._seekable = path, seekable

    def open(self, name: str, mode: str = "r", **_: Any) -> AbstractContextManager[Any]:
        """Opens the file, whatever its name, for bytes ("rb"), or as an iterator of lines."""
        if mode != "rb":
            return contextlib.nullcontext(self._lines())
        if self._seekable:
            return open_seekable(self._path)
        stream: IO[bytes] = io.BufferedReader(_Stream(read_blocks(self._path)))
        return stream

    def resolve_paths(self, name: str) -> str:
        """The file's path."""
        return str(self._path)

    def _lines(self) -> Iterator[str]:
        for offset, line in split_lines(read_blocks(self._path), self._path):
            text = decode(self._path, offset, line, "strict")
            yield from io.StringIO(text, newline=None)  # as open() reads: any line end is \n


@dataclass(frozen=True)
class ReaderSource(FileSource):
    """Files that a reader of datatrove reads."""

    library_class: ClassVar[str]
    """The reader, in datatrove.pipeline.readers."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Those that decide what it reads, besides datatrove."""
    seekable: ClassVar[bool] = False
    """Whether it needs a file's end first."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The parameters of the reader."""
        own = {"paths", "weight", "filters", "kind"}
        names = (item.name for item in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name not in own}

    @property
    def reading(self) -> tuple[object, ...]:
        self._reader()
        return versions(*self.packages), self.arguments

    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        return (document.text for document in self.raw_documents(cache_dir))

    def raw_documents(self, cache_dir: str | None = None) -> Iterator[RawDocument]:
        for path in expand(self.paths):
            try:
                reader = self._reader()
                reader.data_folder = OneFile(path, self.seekable)
                for document in reader.read_file(path.name):
                    yield checked(f"{path}: {document.id}", document)
            except UserError:
                raise
            except damage(self.packages) as error:
                reason = f"datatrove's {self.library_class} cannot read it: "
                reason += f"{type(error).__name__}: {error}"
                raise UserError(path, reason, "check the file") from error

    def _reader(self) -> Any:
        arguments = {"data_folder": ".", **self.arguments}
        return construct("readers", self.library_class, arguments, f"source {self.kind}")


def damage(packages: tuple[str, ...]) -> tuple[type[Exception], ...]:
    """What readers raise for damaged files: also the exceptions of those packages of their own."""
    if "warcio" not in packages:
        return _DAMAGE
    from warcio.exceptions import ArchiveLoadFailed

    return (*_DAMAGE, ArchiveLoadFailed)


def checked(place: str, document: Any) -> RawDocument:
    """A document of datatrove as one of ours.

    Raises:
      UserError: its text is not text, or too large.
    """
    text = document.text
    if not isinstance(text, str):
        reason = f"its text is of type {type(text).__name__}"
        raise UserError(place, reason, "set text_key to a column of strings")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        reason = f"character {error.start} of its text is half a surrogate pair"
        raise UserError(place, reason, "fix the document") from error
    if size > LARGEST_DOCUMENT:
        limit = size_text(LARGEST_DOCUMENT)
        reason = f"has {size_text(size)}, and a document may have at most {limit}"
        raise UserError(place, reason, "split it")
    return RawDocument(text, document.metadata)


@dataclass(frozen=True)
class WarcSource(ReaderSource):
    """WARC files of a web crawl, and their WET files; a page is a document, whose URL filters know.
    Those of WARC files are HTML."""

    paths: tuple[str, ...]
    """Files and globs (`**` matches nested folders); a glob's files are read in sorted order."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["warc"] = "warc"

    endings: ClassVar[tuple[str, ...]] = (".warc", ".wet")
    library_class: ClassVar[str] = "WarcReader"
    packages: ClassVar[tuple[str, ...]] = ("warcio", "faust-cchardet", "python-magic")


@dataclass(frozen=True)
class CsvSource(ReaderSource):
    """CSV files with a header; a row is a document, and filters know its other columns."""

    paths: tuple[str, ...]
    """Files and globs (`**` matches nested folders); a glob's files are read in sorted order."""
    text_key: str = "text"
    """The text column; rows without text are skipped."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["csv"] = "csv"

    library_class: ClassVar[str] = "CSVReader"


@dataclass(frozen=True)
class IpcSource(ReaderSource):
    """Arrow IPC files; a row is a document, and filters know its other columns."""

    paths: tuple[str, ...]
    """Files and globs (`**` matches nested folders); a glob's files are read in sorted order."""
    text_key: str = "text"
    """The text column; rows without text are skipped."""
    stream: bool = False
    """The files have Arrow's streaming format, as those of Hugging Face's `datasets`."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["ipc"] = "ipc"

    endings: ClassVar[tuple[str, ...]] = (".arrow",)
    library_class: ClassVar[str] = "IpcReader"
    packages: ClassVar[tuple[str, ...]] = ("pyarrow",)
    seekable: ClassVar[bool] = True


@dataclass(frozen=True)
class DatatroveJsonlSource(ReaderSource):
    """JSONL files as datatrove reads them: lines that are no JSON are skipped, with a warning."""

    paths: tuple[str, ...]
    """Files and globs (`**` matches nested folders); a glob's files are read in sorted order."""
    text_key: str = "text"
    """The key of the text; lines without text are skipped."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["datatrove_jsonl"] = "datatrove_jsonl"

    library_class: ClassVar[str] = "JsonlReader"
    packages: ClassVar[tuple[str, ...]] = ("orjson",)


@dataclass(frozen=True)
class DatatroveParquetSource(ReaderSource):
    """Parquet files; a row is a document, and filters know its other columns."""

    paths: tuple[str, ...]
    """Files and globs (`**` matches nested folders); a glob's files are read in sorted order."""
    text_key: str = "text"
    """The text column; rows without text are skipped."""
    batch_size: int = 1000
    """Rows in memory at a time."""
    read_metadata: bool = True
    """Read the other columns too, for the filters."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["datatrove_parquet"] = "datatrove_parquet"

    library_class: ClassVar[str] = "ParquetReader"
    packages: ClassVar[tuple[str, ...]] = ("pyarrow",)
    seekable: ClassVar[bool] = True

    def problems(self) -> list[str]:
        wrong = [] if self.batch_size > 0 else [f"batch_size {self.batch_size} is not positive"]
        return super().problems() + wrong
