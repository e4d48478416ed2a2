"""`StorePath`, the address of an object, or of a folder of objects: s3://BUCKET/KEY.

It has the members of pathlib.Path that readers of files use, so they take either. Why not a library
of such paths: etils.epath and universal-pathlib hide the versions of objects (ETag, generation),
which identify data here, and would still not work where the operating system's files are needed
(locks, memory-mapping, rename). For these there are local copies; see `mirror`.

An object appears complete or not at all: a PUT, or the last request of an upload in parts, is
atomic. A folder is a common prefix of names.
"""

import fnmatch
import io
import os
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeAlias

from llmjax.errors import UserError
from llmjax.storage.bounded import size_text
from llmjax.storage.stores.backend import BLOCK, LISTING_SIZE, STORES, Store, store_errors

_ADDRESS = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<bucket>[^/]*)(?P<key>/.*)?", re.DOTALL)
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class ObjectInfo:
    """What a store tells of an object.

    Attributes:
      size: in bytes.
      version: its ETag or generation, which changes whenever it is written.
    """

    size: int
    version: str


@dataclass(frozen=True)
class StorePath:
    """The address of an object or a folder; nothing is requested before a method is called.

    Attributes:
      scheme: key in STORES.
      bucket: name of the bucket.
      key: name in the bucket, without slashes at its ends; may be empty.
    """

    scheme: str
    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name_in_store}"

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(self.scheme, self.bucket, f"{self.key}/{name}".strip("/"))

    def absolute(self) -> "StorePath":
        """The path itself."""
        return self

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name, such as ".gz"."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "StorePath":
        """The folder that holds it; the bucket for a name without slashes."""
        return StorePath(self.scheme, self.bucket, self.key.rpartition("/")[0])

    @property
    def name_in_store(self) -> str:
        """BUCKET/KEY, as fsspec names it."""
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    @property
    def _store(self) -> Store:
        return STORES[self.scheme]

    def errors(self) -> Any:
        """A context that raises UserErrors about this path for what the library raises."""
        return store_errors(self._store, str(self), self.bucket)

    def info(self) -> ObjectInfo:
        """Size and version of the object.

        Raises:
          UserError: there is none, or the store cannot be used.
        """
        with self.errors():
            described = self._store.filesystem().info(self.name_in_store)
            if described["type"] != "file":
                raise FileNotFoundError(str(self))
            return self._info(described)

    def _info(self, described: Any) -> ObjectInfo:
        return ObjectInfo(int(described["size"]), self._store.version(described))

    def is_file(self) -> bool:
        """Whether there is an object of this name; UserError if the store cannot be used."""
        with self.errors():
            try:
                described = self._store.filesystem().info(self.name_in_store)
            except FileNotFoundError as error:
                if self._store.lacks_bucket(error):
                    raise
                return False
            return bool(described["type"] == "file")

    def is_dir(self) -> bool:
        """Whether any object lies below this name; UserError if the store cannot be used."""
        with self.errors():
            try:
                return bool(self._store.filesystem().ls(self.name_in_store + "/", detail=False))
            except FileNotFoundError as error:
                if self._store.lacks_bucket(error):
                    raise
                return False

    def files(self) -> dict[str, ObjectInfo]:
        """The objects below this folder by their names relative to it, in order; one request per
        thousand.

        Raises:
          UserError: there are more than LISTING_SIZE, or the store cannot be used.
        """
        with self.errors():
            found = self._store.filesystem().find(self.name_in_store + "/", detail=True)
            if len(found) > LISTING_SIZE:
                reason = f"has {len(found):,} objects, and at most {LISTING_SIZE:,} are read"
                raise UserError(self, reason, "name a smaller folder")
            start = len(self.name_in_store) + 1
            return {
                name[start:]: self._info(described)
                for name, described in sorted(found.items())
                if described["type"] == "file" and not name.endswith("/") and len(name) > start
            }

    def folders(self) -> list["StorePath"]:
        """The folders in this folder, sorted."""
        with self.errors():
            try:
                found = self._store.filesystem().ls(self.name_in_store + "/", detail=True)
            except FileNotFoundError as error:
                if self._store.lacks_bucket(error):
                    raise
                return []
        names = (entry["name"].strip("/") for entry in found if entry["type"] == "directory")
        return [self / PurePosixPath(name).name for name in sorted(names)]

    def glob(self) -> list["StorePath"]:
        """The objects that match this path as a pattern (`**` matches nested folders), sorted."""
        magic = _MAGIC.search(self.key)
        literal = self.key[: magic.start()].rpartition("/")[0] if magic else self.key
        folder = StorePath(self.scheme, self.bucket, literal)
        matches = re.compile(_regex(self.key))
        found = (folder / name for name in folder.files())
        return [path for path in found if matches.fullmatch(path.key)]

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Opens the object for reading, in blocks of BLOCK bytes; `mode` must be "rb".

        Raises:
          UserError: there is none, or the store cannot be used, also while reading.
        """
        if mode != "rb":
            raise ValueError(f"objects are opened to read bytes, not with mode {mode!r}")
        with self.errors():
            file = self._store.filesystem().open(
                self.name_in_store, "rb", block_size=BLOCK, cache_type="readahead"
            )
            return io.BufferedReader(_Object(self, file), 1 << 20)

    def read_bytes(self, limit: int) -> bytes:
        """The object's content, of at most `limit` bytes; UserError if it is larger."""
        if (size := self.info().size) > limit:
            reason = f"is {size_text(size)}, and at most {size_text(limit)} are read"
            raise UserError(self, reason, "check the file")
        with self.errors():
            data: bytes = self._store.filesystem().cat_file(self.name_in_store)
            return data

    def write_bytes(self, data: bytes, *, overwrite: bool = True) -> None:
        """Writes the object in one request.

        Args:
          data: the content.
          overwrite: replace an existing object; otherwise the store refuses it, where it knows
            conditional writes.

        Raises:
          UserError: it cannot be written, or exists.
        """
        with self.errors():
            mode = "overwrite" if overwrite else "create"
            self._store.filesystem().pipe_file(self.name_in_store, data, mode=mode)

    def upload(self, file: str | Path, *, overwrite: bool = True) -> None:
        """Copies a local file to the object, which appears when complete; as `write_bytes`."""
        with self.errors():
            mode = "overwrite" if overwrite else "create"
            self._store.filesystem().put_file(str(file), self.name_in_store, mode=mode)

    def download(self, file: Path) -> None:
        """Copies the object to a local file; UserError if either cannot be used."""
        with self.errors():
            self._store.filesystem().get_file(self.name_in_store, str(file))

    def move(self, target: "StorePath") -> None:
        """Copies the object to another name in the store, then deletes it."""
        with self.errors():
            self._store.filesystem().cp_file(self.name_in_store, target.name_in_store)
        self.unlink()

    def unlink(self) -> None:
        """Deletes the object."""
        with self.errors():
            self._store.filesystem().rm_file(self.name_in_store)


class _Object(io.RawIOBase):
    """An open object, whose errors are UserErrors."""

    def __init__(self, path: StorePath, file: Any):
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        with self._path.errors():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


Location: TypeAlias = Path | StorePath
"""A local path, or one in a bucket."""


def has_magic(name: str) -> bool:
    """Whether a name is a pattern."""
    return _MAGIC.search(name) is not None


def _regex(pattern: str) -> str:
    """A regular expression of a glob: `*` and `?` stay within a name, `**/` spans folders."""
    parts = []
    for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern):
        if part == "**/":
            parts.append("(?:.*/)?")
        elif part == "**":
            parts.append(".*")
        elif part == "*":
            parts.append("[^/]*")
        elif part == "?":
            parts.append("[^/]")
        elif part.startswith("[") and part.endswith("]"):
            parts.append(fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z"))
        else:
            parts.append(re.escape(part))
    return "(?s:" + "".join(parts) + ")"


def is_store(path: object) -> bool:
    """Whether a path is an address such as gs://BUCKET/KEY or s3://BUCKET/KEY."""
    return isinstance(path, StorePath) or str(path).startswith(
        tuple(f"{scheme}://" for scheme in STORES)
    )


def location(path: str | PathLike[str] | StorePath) -> Location:
    """A local path, or that of an object.

    Raises:
      UserError: it is an address without a bucket, or of another scheme.
    """
    if isinstance(path, StorePath):
        return path
    match = _ADDRESS.fullmatch(text := str(path))
    if match is None:
        return Path(path)
    if match["scheme"] not in STORES:
        known = " and ".join(f"{scheme}://" for scheme in STORES)
        raise UserError(
            text, "is an address of an unknown kind", f"{known} and local paths are read"
        )
    if not match["bucket"]:
        raise UserError(text, "names no bucket", f"write {match['scheme']}://BUCKET/NAME")
    return StorePath(match["scheme"], match["bucket"], (match["key"] or "").strip("/"))


def local_path(path: str | PathLike[str]) -> Path:
    """The path of a file that can only be local, with `~` expanded.

    Raises:
      UserError: it is an address.
    """
    if is_store(os.fspath(path)):
        raise UserError(path, "is in a bucket", "name a local file, and copy it there")
    return Path(path).expanduser()
