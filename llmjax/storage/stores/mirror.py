"""Local copies of folders in buckets, for what needs files of the operating system.

A copy lies in the cache, at stores/SCHEME/BUCKET/KEY, with an index of the versions that it holds.
Opening it lists the folder (one request per thousand objects) and downloads the objects that
changed. Objects can be left out, to be fetched when they are needed.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.cache_folders import folder_lock, write_file
from llmjax.storage.json_documents import read_json
from llmjax.storage.stores.path import ObjectInfo, StorePath, location
from llmjax.storage.stores.transfer import check_finished, download_files
from llmjax.storage.writing import cache_root

INDEX = ".store.json"
"""In a copy: its address, and the sizes and versions of the objects, fetched or not."""
LISTINGS = 5
"""How often a folder is listed whose objects change while they are downloaded."""


Lazy = Callable[[str], bool]
"""Whether the object of a relative name waits for `fetch`."""
Objects = dict[str, ObjectInfo]
"""Objects of a folder by their names relative to it."""


def _nothing(name: str) -> bool:
    return False


def local_copy(
    source: StorePath, lazy: Lazy = _nothing, visible: Callable[[Objects], Objects] = dict
) -> Path:
    """The local copy of a folder, brought up to date.

    Args:
      source: the folder.
      lazy: which objects wait for `fetch`.
      visible: those of the folder's objects that the copy has.

    Raises:
      UserError: there is no such folder, it is incomplete, or it cannot be read.
    """

    def listing() -> Objects:
        files = source.files()
        if not files:
            raise UserError(source, "no such folder", "check the path")
        check_finished(source, files)
        return visible(files)

    folder = cache_root() / "stores" / source.scheme / source.bucket / source.key
    bring_up_to_date(folder, source, listing, lazy)
    return folder


def bring_up_to_date(
    folder: Path, source: StorePath, listing: Callable[[], Objects], lazy: Lazy, within: str = ""
) -> None:
    """Makes a folder a copy of the listed objects of `source`: downloads those that it lacks in
    their versions, and removes earlier ones that are gone; given `within`, of names that begin so.
    Lists them again if they change meanwhile, as the logs of a run in training do.

    Raises:
      UserError: an object cannot be read, or the folder cannot be written.
    """
    files = listing()
    for attempt in range(1, LISTINGS + 1):
        try:
            _become(folder, source, files, lazy, within)
            return
        except UserError:
            files, before = listing(), files
            if attempt == LISTINGS or files == before:
                raise


def _become(folder: Path, source: StorePath, files: Objects, lazy: Lazy, within: str) -> None:
    """Makes a folder a copy of these objects; UserError if they are not as listed any more."""
    with folder_lock(folder):
        held = _held(folder)
        others = {name: info for name, info in held.items() if not name.startswith(within)}
        files = {name: info for name, info in files.items() if name.startswith(within)}
        for name in held.keys() - files.keys() - others.keys():
            _remove(folder, name)
        stale = {
            name: info
            for name, info in files.items()
            if held.get(name) != info or not (folder / name).is_file()
        }
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        download_files(source, folder, {name: i for name, i in stale.items() if not lazy(name)})
        _write_index(folder, source, {**others, **files})


def _remove(folder: Path, name: str) -> None:
    """Removes a file, and the folders that are then empty."""
    (folder / name).unlink(missing_ok=True)
    for parent in (folder / name).relative_to(folder).parents[:-1]:
        try:
            (folder / parent).rmdir()
        except OSError:
            return


def local_object(source: StorePath) -> Path:
    """The local copy of one object, kept by address and version.

    Raises:
      UserError: there is no such object, or it cannot be read.
    """
    info = source.info()
    key = hashlib.blake2b(f"{source} {info.version}".encode(), digest_size=16).hexdigest()
    folder = cache_root() / "stores" / "objects" / key
    with folder_lock(folder):
        if not (folder / source.name).is_file():
            parent = source.parent
            download_files(parent, folder, {source.name: info})
    return folder / source.name


def fetch(root: Path, within: str, needed: Callable[[str], bool] = lambda name: True) -> None:
    """Downloads what a local copy lacks of a subfolder; does nothing in any other folder.

    Args:
      root: the folder, which may be a local copy.
      within: name of the subfolder, or of a file.
      needed: which of the subfolder's objects, by their names in `root`.

    Raises:
      UserError: an object is gone, or cannot be read.
    """
    if not is_copy(root):
        return
    with folder_lock(root):
        source, held = _source(root), _held(root)
        missing = {
            name: info
            for name, info in held.items()
            if (name == within or name.startswith(f"{within}/"))
            and needed(name)
            and not (root / name).is_file()
        }
        if missing:
            download_files(source, root, missing)


def is_copy(folder: Path) -> bool:
    """Whether a folder is a local copy of one in a bucket."""
    return (folder / INDEX).is_file()


def write_back(file: Path) -> None:
    """Uploads a file of a local copy, in its top folder, that was changed here; does nothing in any
    other folder.

    Raises:
      UserError: it cannot be written.
    """
    root = file.parent
    if not is_copy(root):
        return
    with folder_lock(root):
        source, held = _source(root), _held(root)
        target = source / file.name
        target.upload(file)
        _write_index(root, source, {**held, file.name: target.info()})


def address_of(folder: Path) -> str:
    """The address of a local copy's original; of any other folder, its path."""
    return str(_source(folder)) if is_copy(folder) else str(folder)


def _write_index(folder: Path, source: StorePath, files: Objects) -> None:
    objects = {name: [info.size, info.version] for name, info in files.items()}
    text = json.dumps({"source": str(source), "objects": objects})
    write_file(folder / INDEX, text.encode())


def _source(folder: Path) -> StorePath:
    source = location(str(_index(folder).get("source")))
    if not isinstance(source, StorePath):
        raise UserError(folder / INDEX, "is damaged", "remove the folder; it is a local copy")
    return source


def _held(folder: Path) -> Objects:
    """The objects of an index by name; none if there is no valid index."""
    try:
        objects = _index(folder).get("objects", {})
        return {
            name: ObjectInfo(int(size), str(version)) for name, (size, version) in objects.items()
        }
    except (AttributeError, TypeError, ValueError):
        return {}


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = read_json(folder / INDEX)
    except UserError:
        return {}
    return index if isinstance(index, dict) else {}
