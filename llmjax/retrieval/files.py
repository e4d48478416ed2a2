"""The files that an index is made of."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from llmjax.errors import UserError
from llmjax.retrieval.document import READERS, Block
from llmjax.storage.bounded import regular_file

BLOCK = 1 << 20
"""Bytes hashed at once."""


@dataclass(frozen=True)
class Files:
    """What the user named.

    Attributes:
      found: absolute paths of documents, in order.
      folders: absolute paths of the folders that were searched.
      missing: absolute paths that do not exist.
    """

    found: tuple[str, ...]
    folders: tuple[str, ...]
    missing: tuple[str, ...]

    def gone(self, indexed: Iterable[str]) -> list[str]:
        """The indexed documents that were named, or are below a named folder, and are no more."""
        found, missing = set(self.found), set(self.missing)
        return [
            path
            for path in indexed
            if path in missing
            or (path not in found and any(_is_below(path, folder) for folder in self.folders))
        ]


def find_files(names: Sequence[str | PathLike[str]]) -> Files:
    """Find documents: files as named, and in folders those of known suffixes, sorted.

    Hidden files and folders below a named one are left out; links to folders are not followed.

    Raises:
      UserError: a file's suffix is unknown, or its name is not UTF-8.
    """
    found: dict[str, None] = {}
    folders, missing = list[str](), list[str]()
    for name in names:
        path = os.path.abspath(Path(name).expanduser())
        if os.path.isdir(path):
            folders.append(path)
            found.update(dict.fromkeys(_documents_in(path)))
        elif os.path.lexists(path):
            if suffix_of(path) not in READERS:
                known = ", ".join(READERS)
                raise UserError(name, "has no suffix of a document", f"those are {known}")
            found[path] = None
        else:
            missing.append(path)
    for path in (*found, *missing):
        try:
            path.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(path, "has a name that is not UTF-8", "rename it") from error
    return Files(tuple(found), tuple(folders), tuple(missing))


def suffix_of(path: str) -> str:
    """The suffix of a file's name, in lower case."""
    return os.path.splitext(path)[1].lower()


def read_document(path: str) -> Iterator[Block]:
    """Read a document by its suffix; see DocumentReader."""
    return READERS[suffix_of(path)]().blocks(Path(path))


def digest_of(path: str, settings: str) -> str:
    """Hash a file's content, together with what else decides its passages.

    Raises:
      UserError: it cannot be read.
    """
    with regular_file(path) as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(BLOCK):
            digest.update(block)
    digest.update(f"\0{settings}".encode())
    return digest.hexdigest()


def _documents_in(folder: str) -> Iterator[str]:
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if suffix_of(name) in READERS and not name.startswith("."):
                yield os.path.join(path, name)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)
