"""What an index needs of a database, and how passages are stored in it."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from llmjax.errors import UserError
from llmjax.registry import Registry
from llmjax.retrieval.passages import Passage
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import DOCUMENT, json_text, parse_json

K1, B = 1.2, 0.75
"""Of BM25, in every store."""


class StoredPassage(NamedTuple):
    """A passage of an index.

    Attributes:
      id: in the index.
      document: path of its document.
      passage: the passage.
      vector: float32 [width].
      checksum: stored with it.
    """

    id: int
    document: str
    passage: Passage
    vector: np.ndarray
    checksum: int


class Scored(NamedTuple):
    """A passage that a search found.

    Attributes:
      id: of the passage.
      score: BM25, or cosine similarity: more is better.
    """

    id: int
    score: float


class Store(ABC):
    """An index in a database. Use it as a context manager, or close it."""

    name: str
    """For messages; holds no password."""

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the database."""

    @abstractmethod
    def metadata(self) -> Mapping[str, Any] | None:
        """What `write_metadata` wrote; None for a new index."""

    @abstractmethod
    def digests(self) -> dict[str, str]:
        """The digest of each document, by its path."""

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """The numbers of documents and passages."""

    @abstractmethod
    def lexical(self, terms: Sequence[str], limit: int) -> list[Scored]:
        """The passages with any of these terms that BM25 ranks best.

        Scores are those of Robertson and Zaragoza 2009, with K1 and B; a term in more than half of
        all passages counts next to nothing.
        """

    @abstractmethod
    def nearest(self, vector: np.ndarray, limit: int) -> list[Scored]:
        """The passages whose vectors have the largest cosine similarity to `vector`, [width]."""

    @abstractmethod
    def passages(self, ids: Sequence[int]) -> list[StoredPassage]:
        """The passages with these ids, in this order."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager["StoreWriter"]:
        """All changes, or none if the block fails or the process dies.

        Raises:
          UserError: another process is writing, or the database cannot be written.
        """


class StoreWriter(ABC):
    """Changes an index inside a transaction."""

    @abstractmethod
    def create(self, width: int) -> None:
        """Create the tables, for vectors of this width."""

    @abstractmethod
    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata by plain data."""

    @abstractmethod
    def remove(self, document: str) -> None:
        """Remove a document with its passages, if it is there."""

    @abstractmethod
    def add_document(self, document: str, digest: str) -> int:
        """Add a document, and return its number for `add_passages`."""

    @abstractmethod
    def add_passages(self, document: int, passages: Iterable[Passage], vectors: np.ndarray) -> None:
        """Add passages with their vectors, float32 [passages, width]."""

    @abstractmethod
    def approximate(self) -> None:
        """Let `nearest` search a graph instead of every vector, if it does not yet.

        Raises:
          UserError: this store, or the width of the vectors, does not allow it.
        """


STORES = Registry[Store](
    "store",
    {
        "sqlite": "llmjax.retrieval.stores.sqlite:SqliteStore",
        "postgresql": "llmjax.retrieval.stores.postgres:PostgresStore",
    },
)
"""By the scheme of --store."""


def checksum(passage: Passage, vector: np.ndarray) -> int:
    """CRC-32 of a passage and its vector, as stored."""
    data = vector.astype("<f4").tobytes()
    return zlib.crc32(repr(tuple(passage.place)).encode() + passage.text.encode() + data)


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """The metadata of an index with their checksum, as stores keep them."""
    return json_text(with_checksum(metadata))


def read_metadata_text(text: str, name: str, fix: str) -> Mapping[str, Any]:
    """Read what `metadata_text` wrote; `name` is the index's and `fix` what helps, for messages.

    Raises:
      UserError: it is damaged.
    """
    document = parse_json(text, name, limits=DOCUMENT, fix=fix)
    if not isinstance(document, dict):
        raise UserError(name, "is damaged: no metadata", fix)
    return check_checksum(document, name)


def in_order(found: Iterable[StoredPassage], ids: Sequence[int], name: str) -> list[StoredPassage]:
    """Passages in the order of their ids, with their checksums verified.

    Raises:
      UserError: a passage is damaged or missing.
    """
    by_id = {passage.id: passage for passage in found}
    stored = [by_id[id] for id in ids if id in by_id]
    if len(stored) != len(ids):
        raise UserError(name, "is damaged: passages are missing", "index into a new one")
    for item in stored:
        if checksum(item.passage, item.vector) != item.checksum:
            reason = f"is damaged: a passage of {item.document} fails its checksum"
            raise UserError(name, reason, "index into a new one")
    return stored
