"""An index in a PostgreSQL schema: vectors in pgvector, BM25 in SQL over a table of terms."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from llmjax.errors import UserError
from llmjax.retrieval.document import Place
from llmjax.retrieval.passages import Passage
from llmjax.retrieval.store import (
    K1,
    B,
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
    import psycopg
    from pgvector import Vector
    from pgvector.psycopg import register_vector
except ImportError as error:
    reason, fix = "needs psycopg and pgvector", "pip install 'llmjax[postgresql]'"
    raise UserError("PostgreSQL", reason, fix) from error

EF_SEARCH = 100
"""Candidates that the HNSW index keeps during a search: at least the number of results."""
NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
TABLES = """
    create extension if not exists vector schema public;
    create schema if not exists {schema};
    create table metadata (value text not null);
    create table documents (
        id bigint generated always as identity primary key,
        path text not null unique, digest text not null
    );
    create table passages (
        id bigint generated always as identity primary key,
        document bigint not null references documents on delete cascade, text text not null,
        heading text not null, page integer, line integer, last_line integer,
        terms integer not null, vector vector({width}) not null, checksum bigint not null
    );
    create index on passages (document);
    create table terms (
        term text not null, passage bigint not null references passages on delete cascade,
        count integer not null, length integer not null
    );
    create index on terms (term) include (passage, count, length);
    create index on terms (passage);
"""
HNSW = """
    create index if not exists nearest on passages using hnsw (vector vector_cosine_ops)
"""
"""Malkov and Yashunin 2018."""
BM25 = f"""
    with size as (
        select count(*)::float8 as passages, greatest(avg(terms), 1)::float8 as length from passages
    ), frequency as (
        select term, count(*)::float8 as passages from terms where term = any(%(terms)s)
        group by term
    ), weight as (
        select term, size.length, greatest(
            ln((size.passages - frequency.passages + 0.5) / (frequency.passages + 0.5)), 1e-6
        ) as idf from frequency, size
    )
    select passage, sum(
        idf * count * ({K1} + 1) / (count + {K1} * (1 - {B} + {B} * terms.length / weight.length))
    ) as score
    from terms join weight using (term) group by passage
    order by score desc, passage limit %(limit)s
"""


class PostgresStore(Store):
    """An index in a schema of a database that has pgvector."""

    def __init__(self, location: str, server: str | None = None):
        """
        Args:
          location: name of the schema.
          server: its address, postgresql://USER@HOST/DATABASE; a password may also be in PGPASSWORD
            or ~/.pgpass.

        Raises:
          UserError: the name is no name of a schema, or the server does not answer.
        """
        if not NAME.fullmatch(location):
            reason = "is no name for an index in PostgreSQL"
            raise UserError(location, reason, "use lower-case letters, digits and _")
        self.name, self._schema = location, location
        with self._errors():
            self._connection = psycopg.connect(server or "", autocommit=True, connect_timeout=10)
            self._connection.execute(f"set search_path to {location}, public")
            if self._is_there():
                register_vector(self._connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """PostgreSQL's errors as the user's mistakes; its messages hold no password."""
        try:
            yield
        except psycopg.errors.LockNotAvailable as error:
            reason = "is being written by another process"
            raise UserError(self.name, reason, "wait until it ends") from error
        except psycopg.Error as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                self.name, f"PostgreSQL refuses: {lines[0]}", "check --store"
            ) from error

    def close(self) -> None:
        self._connection.close()

    def _rows(self, statement: str, values: Any = None) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(statement, values).fetchall()

    def _is_there(self) -> bool:
        return self._rows("select to_regclass(%s)", (f"{self._schema}.metadata",)) != [(None,)]

    def metadata(self) -> Mapping[str, Any] | None:
        rows = self._rows("select value from metadata") if self._is_there() else []
        if not rows:
            return None
        return read_metadata_text(rows[0][0], self.name, "index into a new one")

    def digests(self) -> dict[str, str]:
        if not self._is_there():
            return {}
        return dict(self._rows("select path, digest from documents"))

    def size(self) -> tuple[int, int]:
        if not self._is_there():
            return 0, 0
        counts = self._rows(
            "select (select count(*) from documents), (select count(*) from passages)"
        )
        return counts[0][0], counts[0][1]

    def lexical(self, terms: Sequence[str], limit: int) -> list[Scored]:
        return [Scored(*row) for row in self._rows(BM25, {"terms": list(terms), "limit": limit})]

    def nearest(self, vector: np.ndarray, limit: int) -> list[Scored]:
        with self._errors(), self._connection.transaction():
            self._connection.execute(
                f"set local hnsw.ef_search = {max(EF_SEARCH, min(limit, 1000))}"
            )
            found = self._connection.execute(
                "select id, 1 - (vector <=> %(vector)s) from passages "
                "order by vector <=> %(vector)s limit %(limit)s",
                {"vector": Vector(vector.tolist()), "limit": limit},
            ).fetchall()
        return [Scored(*row) for row in found]

    def passages(self, ids: Sequence[int]) -> list[StoredPassage]:
        found = self._rows(
            "select passages.id, path, text, heading, page, line, last_line, vector, checksum "
            "from passages join documents on documents.id = document "
            "where passages.id = any(%s)",
            (list(ids),),
        )
        passages = (
            StoredPassage(id, path, Passage(text, Place(*place)), vector.to_numpy(), stored)
            for id, path, text, *place, vector, stored in found
        )
        return in_order(passages, ids, self.name)

    @contextmanager
    def transaction(self) -> Iterator["PostgresWriter"]:
        with self._errors(), self._connection.transaction():
            lock = "select pg_try_advisory_xact_lock(hashtext(%s))"
            if self._rows(lock, (f"llmjax {self._schema}",)) != [(True,)]:
                reason = "is being written by another process"
                raise UserError(self.name, reason, "wait until it ends")
            yield PostgresWriter(self._connection, self._schema)


class PostgresWriter(StoreWriter):
    """Changes the tables."""

    def __init__(self, connection: "psycopg.Connection[Any]", schema: str):
        self._connection, self._schema = connection, schema

    def create(self, width: int) -> None:
        self._connection.execute(TABLES.format(schema=self._schema, width=width))
        register_vector(self._connection)

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        self._connection.execute("delete from metadata")
        text = metadata_text(metadata)
        self._connection.execute("insert into metadata values (%s)", (text,))

    def remove(self, document: str) -> None:
        self._connection.execute("delete from documents where path = %s", (document,))

    def add_document(self, document: str, digest: str) -> int:
        row = self._connection.execute(
            "insert into documents (path, digest) values (%s, %s) returning id", (document, digest)
        ).fetchone()
        assert row is not None
        return int(row[0])

    def add_passages(self, document: int, passages: Iterable[Passage], vectors: np.ndarray) -> None:
        pairs = list(zip(passages, vectors, strict=True))
        words = [terms_of(passage.with_heading) for passage, _ in pairs]
        first = (
            "select nextval(pg_get_serial_sequence('passages', 'id')) from generate_series(1, %s)"
        )
        ids = [row[0] for row in self._connection.execute(first, (len(pairs),)).fetchall()]
        columns = "id, document, text, heading, page, line, last_line, terms, vector, checksum"
        with self._connection.cursor() as cursor:
            with cursor.copy(f"copy passages ({columns}) from stdin") as rows:
                for id, (passage, vector), found in zip(ids, pairs, words, strict=True):
                    sums = checksum(passage, vector)
                    numbers = Vector(vector.tolist())
                    place = passage.place
                    rows.write_row((id, document, passage.text, *place, len(found), numbers, sums))
            with cursor.copy("copy terms (term, passage, count, length) from stdin") as rows:
                for id, found in zip(ids, words, strict=True):
                    for term in sorted(set(found)):
                        rows.write_row((term, id, found.count(term), len(found)))

    def approximate(self) -> None:
        try:
            with self._connection.transaction():
                self._connection.execute(HNSW)
        except psycopg.errors.ProgramLimitExceeded as error:
            raise UserError("--approximate", str(error), "leave it out") from error
