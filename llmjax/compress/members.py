"""The files of a folder, as an archive lists them: (path, mode, time, size) of each."""

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from llmjax.compress.archive import damaged
from llmjax.compress.visible import visible
from llmjax.errors import UserError

Member = list[Any]
"""[path with slashes, mode, nanoseconds since 1970, bytes]; bytes are -1 for a folder."""


def listed(root: Path) -> list[Member]:
    """What a folder holds, in the order of names.

    Raises:
      UserError: something in it cannot be read, or is neither file nor folder.
    """
    paths: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=_refused):
        paths += [Path(folder, name) for name in (*folders, *files)]
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

    Raises:
      UserError: one may not.
    """
    seen: dict[PurePosixPath, bool] = {}
    if not isinstance(members, list):
        raise damaged("its list of files is none")
    for member in members:
        match member:
            case [str(name), int(mode), int(time), int(size)]:
                path = PurePosixPath(name)
            case _:
                raise damaged("its list of files cannot be read")
        plain = path.as_posix() == name and name not in ("", ".") and not path.is_absolute()
        if not plain or ".." in path.parts or "\0" in name:
            raise UserError(f"the archive's file {name!r}", "would lie outside its folder")
        if not _possible(name, mode, time, size):
            raise damaged(f"the name, mode, time or size of {name!r} is impossible")
        if path in seen or any(seen.get(parent) is False for parent in path.parents):
            raise UserError(f"the archive's file {name!r}", "comes twice, or inside a file")
        seen[path] = size < 0
    if any(seen.get(parent) is False for path in seen for parent in path.parents):
        raise UserError("the archive", "has a file inside a file")
    return members


def _possible(name: str, mode: int, time: int, size: int) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a character, which no name that was read can hold
        return False
    return 0 <= mode <= 0o777 and -(2**63) <= time < 2**63 and -1 <= size < 2**56


def _refused(error: OSError) -> None:
    raise UserError(visible(str(error.filename)), f"cannot be read: {error.strerror}") from error
