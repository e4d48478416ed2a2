"""Indexes of documents that are served, for search and for answers from what is found."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llmjax.errors import UserError
from llmjax.retrieval.answer import SYSTEM, message
from llmjax.retrieval.search import SearchIndex, open_index


class SearchBody(BaseModel):
    """Of /v1/search."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=10_000)
    index: str | None = None
    limit: int = Field(5, ge=1, le=100)


class ServedIndex:
    """An index and its embedding run; for several threads."""

    def __init__(self, name: str, index: SearchIndex):
        self.name, self._index = name, index
        self._lock = threading.Lock()

    def close(self) -> None:
        """Closes the database."""
        self._index.close()

    def search(self, query: str, limit: int) -> dict[str, Any]:
        """Passages, best first, and the messages that ask a chat model to answer from them.

        Raises:
          UserError: the index is damaged.
        """
        with self._lock:
            hits = self._index.search(query, limit=limit)
        asked = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": message(query, hits)},
        ]
        data = [hit.to_dict() for hit in hits]
        return {
            "object": "list",
            "index": self.name,
            "data": data,
            "messages": asked if hits else [],
        }


def load_indexes(paths: Sequence[str]) -> list[ServedIndex]:
    """Opens indexes; each is named by its file, without the ending.

    Raises:
      UserError: as `open_index`, or two have the same name.
    """
    found = list[ServedIndex]()
    try:
        for path in paths:
            name = Path(path).stem
            if any(other.name == name for other in found):
                fix = "rename a file"
                raise UserError(f"two indexes named {name}", "cannot be told apart", fix)
            found.append(ServedIndex(name, open_index(path)))
    except BaseException:
        for index in found:
            index.close()
        raise
    return found


def chosen(indexes: Sequence[ServedIndex], name: str | None) -> ServedIndex:
    """The index of a name; the only one if none is named.

    Raises:
      UserError: there is no such index, or several and none is named.
    """
    names = ", ".join(index.name for index in indexes)
    if not indexes:
        raise UserError("search", "no index is served", "start the server with --index FILE")
    if name is None and len(indexes) == 1:
        return indexes[0]
    for index in indexes:
        if index.name == name:
            return index
    raise UserError(f"index {name}" if name else "index", f"choose one of {names}")
