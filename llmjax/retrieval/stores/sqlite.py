"""An index in one SQLite file: words in FTS5, vectors in sqlite-vec.

apsw brings a SQLite of its own: that of many Python installations cannot load extensions. Vectors
are compared one by one, so nothing is missed; a million of width 384 take half a second.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.errors import UserError
from llmjax.retrieval.document import Place
from llmjax.retrieval.passages import Passage
from llmjax.retrieval.store import (
    Scored,
    Store,
    StoredPassage,
    StoreWriter,
    checksum,
    in_order,
    metadata_text,
    read_metadata_text,
)
from llmjax.retrieval.terms import terms as terms_of

try:
    import apsw
    import sqlite_vec
except ImportError as error:
    raise UserError(
        "search", "needs apsw and sqlite-vec", "pip install 'llmjax[search]'"
    ) from error

APPLICATION_ID = 0x6C6C6D6A
"""In the header of the file: "llmj"."""
MAX_NEAREST = 4096
"""sqlite-vec's limit."""
CACHE_KIB = 65536
"""Changed pages that are kept in memory."""
TABLES = """
    create table metadata (value text not null);
    create table documents (
        id integer primary key, path text not null unique, digest text not null
    );
    create table passages (
        id integer primary key, document integer not null references documents, text text not null,
        heading text not null, page integer, line integer, last_line integer,
        checksum integer not null
    );
    create index passages_of_document on passages (document);
    create virtual table words using fts5 (
        terms, content = '', contentless_delete = 1,
        tokenize = "unicode61 remove_diacritics 0 categories 'L* N* M* Co'"
    );
    create virtual table vectors using vec0 (
        id integer primary key, vector float[{width}] distance_metric = cosine
    );
"""


class SqliteStore(Store):
    """An index in a file."""

    def __init__(self, location: str, _: str | None = None):
        """
        Args:
          location: the file's path.

        Raises:
          UserError: it cannot be opened, or is no index.
        """
        self.name, self._path = location, Path(location).expanduser()
        if self._path.is_dir() or not self._path.parent.is_dir():
            reason = "is a folder" if self._path.is_dir() else "is in a folder that does not exist"
            raise UserError(location, reason, "name a file")
        self._connection: apsw.Connection | None = None
        if self._path.exists():
            with self._errors():
                self._open(apsw.SQLITE_OPEN_READWRITE)

    def _open(self, flags: int) -> "apsw.Connection":
        connection = apsw.Connection(str(self._path), flags=flags)
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        connection.enable_load_extension(False)
        connection.set_busy_timeout(2000)
        connection.execute(f"pragma cache_size = -{CACHE_KIB}")
        self._connection = connection
        identity = connection.execute("pragma application_id").fetchall()
        objects = connection.execute("select 1 from sqlite_schema limit 1").fetchall()
        if objects and identity != [(APPLICATION_ID,)]:
            self.close()
            raise UserError(self.name, "is not an index of llmjax", "name another file")
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as the user's mistakes."""
        try:
            yield
        except apsw.BusyError as error:
            reason = "is being written by another process"
            raise UserError(self.name, reason, "wait until it ends") from error
        except (apsw.NotADBError, apsw.CorruptError) as error:
            reason = "is no SQLite file, or a damaged one"
            raise UserError(self.name, reason, "index into a new one") from error
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
            raise UserError(self.name, f"cannot be opened: {error}", "check the path") from error
        except (apsw.FullError, apsw.IOError) as error:
            raise UserError(self.name, f"cannot be written: {error}", "free space") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self._connection is None:
            return []
        with self._errors():
            return self._connection.execute(statement, values).fetchall()

    def _is_empty(self) -> bool:
        return not self._rows("select 1 from sqlite_schema where name = 'metadata'")

    def metadata(self) -> Mapping[str, Any] | None:
        if self._is_empty():
            return None
        ((text,),) = self._rows("select value from metadata") or (("null",),)
        return read_metadata_text(text, self.name, "index into a new file")

    def digests(self) -> dict[str, str]:
        if self._is_empty():
            return {}
        return dict(self._rows("select path, digest from documents"))

    def size(self) -> tuple[int, int]:
        if self._is_empty():
            return 0, 0
        counts = self._rows(
            "select (select count(*) from documents), (select count(*) from passages)"
        )
        return counts[0][0], counts[0][1]

    def lexical(self, terms: Sequence[str], limit: int) -> list[Scored]:
        query = " OR ".join(f'"{term}"' for term in terms)
        if not query:
            return []
        found = self._rows(
            "select rowid, -rank from words where words match ? order by rank, rowid limit ?",
            (query, limit),
        )
        return [Scored(*row) for row in found]

    def nearest(self, vector: np.ndarray, limit: int) -> list[Scored]:
        found = self._rows(
            "select id, 1 - distance from vectors where vector match ? and k = ? order by distance",
            (_bytes(vector), min(limit, MAX_NEAREST)),
        )
        return [Scored(*row) for row in found]

    def passages(self, ids: Sequence[int]) -> list[StoredPassage]:
        marks = ", ".join("?" * len(ids))
        found = self._rows(
            "select passages.id, path, text, heading, page, line, last_line, vector, checksum "
            "from passages join documents on documents.id = document "
            f"join vectors on vectors.id = passages.id where passages.id in ({marks})",
            ids,
        )
        passages = (
            StoredPassage(
                id, path, Passage(text, Place(*place)), np.frombuffer(vector, "<f4"), stored
            )
            for id, path, text, *place, vector, stored in found
        )
        return in_order(passages, ids, self.name)

    @contextmanager
    def transaction(self) -> Iterator["SqliteWriter"]:
        is_new, is_done = self._connection is None, False
        try:
            with self._locked() as connection:
                yield SqliteWriter(connection)
            is_done = True
        finally:
            if is_new and not is_done:
                self.close()
                self._path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator["apsw.Connection"]:
        with self._errors():
            connection = self._connection or self._open(
                apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            )
            # Others read the old index meanwhile; afterwards it is one file again.
            connection.execute("pragma journal_mode = wal")
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            finally:
                if connection.in_transaction:
                    connection.execute("rollback")
        with suppress(apsw.BusyError):  # someone reads; the next writer does it
            connection.execute("pragma journal_mode = delete")


class SqliteWriter(StoreWriter):
    """Changes the tables."""

    def __init__(self, connection: "apsw.Connection"):
        self._connection = connection

    def create(self, width: int) -> None:
        self._connection.execute(TABLES.format(width=width))
        self._connection.execute(f"pragma application_id = {APPLICATION_ID}")

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        self._connection.execute("delete from metadata")
        self._connection.execute("insert into metadata values (?)", (metadata_text(metadata),))

    def remove(self, document: str) -> None:
        number = "(select id from documents where path = ?)"
        for table, column in (("words", "rowid"), ("vectors", "id")):
            self._connection.execute(
                f"delete from {table} where {column} in "
                f"(select id from passages where document = {number})",
                (document,),
            )
        self._connection.execute(f"delete from passages where document = {number}", (document,))
        self._connection.execute("delete from documents where path = ?", (document,))

    def add_document(self, document: str, digest: str) -> int:
        self._connection.execute(
            "insert into documents (path, digest) values (?, ?)", (document, digest)
        )
        return self._connection.last_insert_rowid()

    def add_passages(self, document: int, passages: Iterable[Passage], vectors: np.ndarray) -> None:
        for passage, vector in zip(passages, vectors, strict=True):
            self._connection.execute(
                "insert into passages (document, text, heading, page, line, last_line, checksum) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                (document, passage.text, *passage.place, checksum(passage, vector)),
            )
            number = self._connection.last_insert_rowid()
            words = " ".join(terms_of(passage.with_heading))
            self._connection.execute(
                "insert into words (rowid, terms) values (?, ?)", (number, words)
            )
            self._connection.execute(
                "insert into vectors (id, vector) values (?, ?)", (number, _bytes(vector))
            )

    def approximate(self) -> None:
        reason = "is for PostgreSQL; in SQLite every vector is compared"
        raise UserError("--approximate", reason, "give --store postgresql://HOST/DATABASE")


def _bytes(vector: np.ndarray) -> bytes:
    return vector.astype("<f4").tobytes()
