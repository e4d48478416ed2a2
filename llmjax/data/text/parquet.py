"""Parquet files in small batches, whose sizes are bounded before they are decoded."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Literal

from llmjax.data.text.filters import AnyFilter
from llmjax.data.text.reading import LARGEST_DOCUMENT, expand, open_seekable
from llmjax.data.text.source import FileSource
from llmjax.errors import UserError
from llmjax.storage.bounded import size_text
from llmjax.storage.stores.path import Location

ROWS = 256
"""Maximum rows per batch."""
MAX_COLUMNS = 16_384
"""Maximum columns of a table, as in the largest spreadsheets."""
_READ = 1 << 20  # bytes of a column read from the file at a time


@dataclass(frozen=True)
class ParquetSource(FileSource):
    """Parquet files; a row is a document."""

    column: str = "text"
    """The text column; nulls are skipped."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["parquet"] = "parquet"
    endings: ClassVar[tuple[str, ...]] = (".parquet",)

    @property
    def reading(self) -> tuple[object, ...]:
        return (self.column,)

    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        for path in expand(self.paths):
            with open_seekable(path) as file:
                yield from filter(None, _string_column(file, path, self.column))


def _string_column(file: IO[bytes], path: Location, column: str) -> Iterator[str | None]:
    """The values of a column of strings.

    Args:
      file: seekable.
      path: of the file, for messages.
      column: name of the column.

    Raises:
      UserError: there is no such column, or it has another type; the file is damaged; a value is
        larger than LARGEST_DOCUMENT.
    """
    import pyarrow

    with _sound(path):
        table = _table(file, path)
        schema = table.schema_arrow
        if column not in schema.names:
            fix = f"set column to one of: {', '.join(schema.names)}"
            raise UserError(path, f"has no column {column!r}", fix)
        type_ = schema.field(column).type
        type_ = type_.value_type if pyarrow.types.is_dictionary(type_) else type_
        if type_ not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
            raise UserError(path, f"column {column!r} is of type {type_}, not string")
        for batch in _batches(table, path, [column]):
            yield from batch.column(0).to_pylist()


def table_rows(path: Location) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file as plain Python values.

    Raises:
      UserError: the file is damaged, or a row is larger than LARGEST_DOCUMENT.
    """
    with open_seekable(path) as file, _sound(path):
        table = _table(file, path)
        for batch in _batches(table, path, table.schema_arrow.names):
            yield from batch.to_pylist()


@contextlib.contextmanager
def _sound(path: Location) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            path, f"is not a valid Parquet file: {error}", "download it again"
        ) from error


def _table(file: IO[bytes], path: Location) -> Any:
    from pyarrow import parquet

    table = parquet.ParquetFile(file, buffer_size=_READ)
    names = table.schema_arrow.names
    if len(names) > MAX_COLUMNS:
        reason = f"has {len(names):,} columns, and at most {MAX_COLUMNS:,} are read"
        raise UserError(path, reason, "remove those that are not needed")
    for field in table.schema_arrow:
        if name := _repeated_field(field.type):
            raise UserError(path, f"column {field.name!r} has two fields {name!r}", "rename one")
    if name := _first_repeated(names):
        raise UserError(path, f"has two columns {name!r}", "rename or drop one of them")
    return table


def _repeated_field(type_: Any) -> str | None:
    """A name that two fields of a nested type share; None if there is none."""
    fields = [type_.field(number) for number in range(type_.num_fields)]
    name = _first_repeated([field.name for field in fields])
    return name or next(filter(None, (_repeated_field(field.type) for field in fields)), None)


def _first_repeated(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _batches(table: Any, path: Location, columns: Sequence[str]) -> Iterator[Any]:
    """Record batches of these columns, each of at most LARGEST_DOCUMENT bytes.

    Whatever the encoding, no value is larger than its column chunk when decompressed; so the size
    of a row group bounds the number of rows that are safe to read at once.
    """
    first = 1
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        size = max(1, _group_size(group, columns))
        if size > LARGEST_DOCUMENT * group.num_rows:
            raise _too_large(path, f"row {first}", size // max(1, group.num_rows))
        rows = min(ROWS, max(1, LARGEST_DOCUMENT // size))
        for batch in table.iter_batches(rows, [number], list(columns)):
            if rows == 1 and batch.nbytes > LARGEST_DOCUMENT:
                raise _too_large(path, f"row {first}", batch.nbytes)
            first += batch.num_rows
            yield batch


def _group_size(group: Any, columns: Sequence[str]) -> int:
    """Decompressed bytes of these columns in a row group."""
    selected, size = set(columns), 0
    for number in range(group.num_columns):
        chunk = group.column(number)
        path = chunk.path_in_schema
        if path in selected or path.split(".")[0] in selected:
            size += chunk.total_uncompressed_size
    return size


def _too_large(path: Location, where: str, size: int) -> UserError:
    limit = size_text(LARGEST_DOCUMENT)
    reason = f"has {size_text(size)}, and a row may have at most {limit}"
    return UserError(f"{path} {where}", reason, "split it into several rows")
