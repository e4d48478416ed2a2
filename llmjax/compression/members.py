"""The files of a folder, as an archive lists them: (path, mode, time, size) of each."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmjax.compression.damage import damaged
from llmjax.compression.visible import visible
from llmjax.errors import UserError

MOST_MEMBERS = 500_000
"""Files and folders of an archive, those that only lie on the way to others included; each takes
about 300 bytes of memory."""

LONGEST_PATH = 4096
"""Bytes of a member's path: what Linux takes in one call."""

LONGEST_NAME = 255
"""Bytes of a part of it: what file systems take."""

Member = list[Any]
"""[path with slashes, mode, nanoseconds since 1970, bytes]; bytes are -1 for a folder."""


def listed(root: Path) -> list[Member]:
    """What a folder holds, in the order of names.

    Raises:
      UserError: something in it cannot be read, or is neither file nor folder; or there are more
        than `MOST_MEMBERS`.
    """
    paths: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=_refused):
        paths += [Path(folder, name) for name in (*folders, *files)]
        if len(paths) > MOST_MEMBERS:
            reason = f"holds more than {MOST_MEMBERS:,} files and folders"
            raise UserError(visible(str(root)), reason, "compress its parts, or a tar file of it")
    found: list[Member] = []
    for path in sorted(paths):
        name, about = path.relative_to(root).as_posix(), path.lstat()
        regular = stat.S_ISREG(about.st_mode)
        if not regular and not stat.S_ISDIR(about.st_mode):
            reason = "is a link or device"
            raise UserError(visible(str(path)), reason, "only files and folders can be kept")
        size = about.st_size if regular else -1
        found.append([name, stat.S_IMODE(about.st_mode) & 0o777, about.st_mtime_ns, size])
    return checked_members(found)


def checked_members(members: Any) -> list[Member]:
    """The members of an archive, all of which may be unpacked.

    Takes time in proportion to the length of all paths, but for sorting them.

    Raises:
      UserError: one may not.
    """
    if not isinstance(members, list):
        raise damaged("its list of files is none")
    if len(members) > MOST_MEMBERS:
        raise damaged(f"it lists more than {MOST_MEMBERS:,} files")
    for member in members:
        match member:
            case [str(name), int(mode), int(time), int(size)]:
                _check_path(name)
            case _:
                raise damaged("its list of files cannot be read")
        if not (0 <= mode <= 0o777 and -(2**63) <= time < 2**63 and -1 <= size < 2**56):
            raise damaged(f"the mode, time or size of {_shown(name)} is impossible")
    _check_tree(members)
    return members


def _check_path(name: str) -> None:
    """UserError where a path is none that lies inside a folder, or is longer than any."""
    if len(name) > LONGEST_PATH:  # said before anything walks along it
        raise damaged(f"the path {_shown(name)} has more than {LONGEST_PATH:,} bytes")
    around = f"/{name}/"
    if "\0" in name or any(part in around for part in ("//", "/./", "/../")):
        raise UserError(f"the archive's file {_shown(name)}", "would lie outside its folder")
    try:  # whatever the names of this very system are
        encoded = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:  # half of a character: no name that was read can hold it
        raise damaged(f"the name {_shown(name)} is impossible") from error
    if len(encoded) > LONGEST_PATH:
        raise damaged(f"the path {_shown(name)} has more than {LONGEST_PATH:,} bytes")
    if len(encoded) > LONGEST_NAME < max(map(len, encoded.split(b"/"))):
        raise damaged(f"the path {_shown(name)} has a part of more than {LONGEST_NAME} bytes")


def _check_tree(members: list[Member]) -> None:
    """UserError where a path comes twice or leads through a file, or they need too many folders."""
    folders = {name for name, _, _, size in members if size < 0}
    file, before, missing = "", "", 0
    for name, is_file in _in_order(members):
        if name == before or (file and name.startswith(file)):
            raise UserError(f"the archive's file {_shown(name)}", "comes twice, or inside a file")
        before, file = name, f"{name}/" if is_file else file
        parent = name.rpartition("/")[0]
        if parent and parent not in folders:  # as many are made as it has parts, or fewer
            missing += parent.count("/") + 1
            if missing + len(members) > MOST_MEMBERS:
                raise damaged(f"it needs more than {MOST_MEMBERS:,} files and folders")


def _in_order(members: list[Member]) -> Iterator[tuple[str, bool]]:
    """Path, and whether it is a file's, in an order where a folder is followed by what it holds."""
    keys = sorted((name.replace("/", "\0"), size >= 0) for name, _, _, size in members)
    return ((key.replace("\0", "/"), is_file) for key, is_file in keys)


def _shown(name: str) -> str:
    """The beginning of a name, in quotes."""
    return repr(name if len(name) <= 80 else f"{name[:80]}...")


def _refused(error: OSError) -> None:
    raise UserError(visible(str(error.filename)), f"cannot be read: {error.strerror}") from error
