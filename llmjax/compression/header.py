"""The header of an archive: JSON, deflated with a dictionary, parsed within limits.

A few hundred bytes of an archive can inflate a thousandfold, and the values parsed from them can
take ten times as much memory again. So the size is bounded before inflating, the number of values
before parsing, and each number and string before use.

For a folder the header lists the members. Nothing in an archive is trusted: each path must lie
inside the folder, must be unique and must not lead through a file; only files and folders exist.
"""

import json
import zlib
from collections.abc import Iterator
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.json_documents import JsonLimits, parse_json

MAX_MEMBERS = 500_000
"""Files and folders per archive, implied parent folders included; each takes about 300 bytes of
memory."""

MAX_PATH_BYTES = 4096
"""Bytes of a member's path: PATH_MAX on Linux."""

MAX_NAME_BYTES = 255
"""Bytes of one path component: the limit of common file systems."""

MAX_HEADER_BYTES = 64 << 20
"""Bytes of a header's JSON: 134 for each of `MAX_MEMBERS`; a member with a path of 60 characters
takes about 100."""

MAX_FIELDS = 1000
"""Values in a header other than its list of files; current headers have about 30."""

MAX_TEXT = 1 << 16
"""Characters of a string value; the longest are the compiler flags."""

LIMITS = JsonLimits(size=MAX_HEADER_BYTES, marks=6 * MAX_MEMBERS, depth=3)
"""Each member has five marks, plus one in case its name contains a comma."""

# Fields that are stored under an older name.
_STORED_NAMES = {"determinism_hash": "canary", "streams": "lanes"}
_NAMES = {stored: name for name, stored in _STORED_NAMES.items()}

# A typical header, so that only differences from it take space. Part of the format: never change.
DICTIONARY = (
    b'{"llmjax":"0.1.0","size":1000000,"step":0,"dtype":"bfloat16","model":"","tokenizer":"",'
    b'"canary":"","lanes":16,"context":512,"stride":384,"groups":1,"windows":true,"environment":{"jax":'
    b'"0.10.2","jaxlib":"0.10.2","platform":"cpu","device":"cpu","cores":2,"flags":"--xla_",'
    b'"machine":"x86_64","processor":"Intel(R) Xeon(R) Processor @ GHz AMD EPYC -Core Processor",'
    b'"precision":null},"files":null'
)

Member = list[Any]
"""[path with slashes, mode, mtime in nanoseconds since 1970, bytes]; bytes are -1 for a folder."""


def damaged(reason: str) -> UserError:
    """Returns the error for an archive that no writer of this format can have produced."""
    return UserError("the archive", f"is damaged: {reason}", "fetch another copy of it")


def pack_header(header: dict[str, Any]) -> bytes:
    """Serializes a header.

    Raises:
      UserError: it exceeds the limits of `unpack_header`.
    """
    stored = {_STORED_NAMES.get(name, name): value for name, value in header.items()}
    plain = json.dumps(stored, separators=(",", ":")).encode()
    try:
        _parse(plain)
    except UserError as error:
        raise UserError(
            "the header", f"would exceed the limits: {error.reason}", "compress fewer files"
        ) from error
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    return deflate.compress(plain) + deflate.flush()


def unpack_header(packed: bytes) -> dict[str, Any]:
    """Parses a serialized header and validates it, so that every field is safe to use.

    Raises:
      UserError: the bytes are not a header, or it exceeds a limit or contradicts itself.
    """
    inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        plain = inflate.decompress(packed, MAX_HEADER_BYTES + 1)
    except zlib.error as error:
        raise damaged(f"its header cannot be inflated: {error}") from error
    if len(plain) > MAX_HEADER_BYTES:
        raise damaged(f"its header has more than {MAX_HEADER_BYTES:,} bytes")
    if not inflate.eof or inflate.unused_data:
        raise damaged("its header is cut short or followed by other bytes")
    return {_NAMES.get(name, name): value for name, value in _parse(plain).items()}


def _parse(plain: bytes) -> dict[str, Any]:
    try:
        header = parse_json(plain, "the header", limits=LIMITS)
    except UserError as error:
        raise damaged(f"its header {error.reason}") from error
    if not isinstance(header, dict):
        raise damaged("its header is not a JSON object")
    _check_fields({name: value for name, value in header.items() if name != "files"})
    size, mode, modified = (header.get(name) for name in ("size", "mode", "time"))
    if type(size) is not int or size < 0:
        raise damaged("its header has no size")
    if mode is not None and (type(mode) is not int or not 0 <= mode <= 0o777):
        raise damaged("its mode is invalid")
    if modified is not None and type(modified) is not int:
        raise damaged("its time is invalid")
    files = header.get("files")
    if files is not None and size != sum(max(0, member[3]) for member in check_members(files)):
        raise damaged("the sizes of its files do not add up")
    return header


def _check_fields(fields: dict[str, Any]) -> None:
    """Raises UserError if there are too many values, or one is too large."""
    for index, value in enumerate(_plain_values(fields)):
        if index >= MAX_FIELDS:
            raise damaged(f"its header has more than {MAX_FIELDS:,} values beside its files")
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise damaged(f"its header has a text of more than {MAX_TEXT:,} characters")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise damaged("its header has a number that does not fit 64 bits")


def _plain_values(value: Any) -> Iterator[Any]:
    """Yields a value and, recursively, every key and value in it."""
    yield value
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _plain_values(item)
    elif isinstance(value, list):
        for item in value:
            yield from _plain_values(item)


def check_members(members: Any) -> list[Member]:
    """Validates the members of an archive, and returns them.

    Takes time linear in the length of all paths, apart from sorting them.

    Raises:
      UserError: a member must not be unpacked.
    """
    if not isinstance(members, list):
        raise damaged("its list of files is not a list")
    if len(members) > MAX_MEMBERS:
        raise damaged(f"it lists more than {MAX_MEMBERS:,} files")
    for member in members:
        match member:
            case [str(name), int(mode), int(time), int(size)]:
                _check_path(name)
            case _:
                raise damaged("its list of files cannot be read")
        if not (0 <= mode <= 0o777 and -(2**63) <= time < 2**63 and -1 <= size < 2**56):
            raise damaged(f"the mode, time or size of {_quoted(name)} is invalid")
    _check_tree(members)
    return members


def _check_path(name: str) -> None:
    """Raises UserError if a path does not lie inside the folder, or is too long."""
    if len(name) > MAX_PATH_BYTES:  # before any scan of it
        raise damaged(f"the path {_quoted(name)} has more than {MAX_PATH_BYTES:,} bytes")
    padded = f"/{name}/"
    if "\0" in name or any(part in padded for part in ("//", "/./", "/../")):
        raise UserError(f"the archive's file {_quoted(name)}", "would lie outside its folder")
    try:  # UTF-8, whatever this system's encoding of names is
        encoded = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:  # an unpaired surrogate, which no real file name has
        raise damaged(f"the name {_quoted(name)} is invalid") from error
    if len(encoded) > MAX_PATH_BYTES:
        raise damaged(f"the path {_quoted(name)} has more than {MAX_PATH_BYTES:,} bytes")
    if len(encoded) > MAX_NAME_BYTES < max(map(len, encoded.split(b"/"))):
        raise damaged(f"the path {_quoted(name)} has a part of more than {MAX_NAME_BYTES} bytes")


def _check_tree(members: list[Member]) -> None:
    """Raises UserError for a path that repeats or leads through a file, or too many folders."""
    folders = {name for name, _, _, size in members if size < 0}
    file_prefix, previous, missing = "", "", 0
    for name, is_file in _in_order(members):
        if name == previous or (file_prefix and name.startswith(file_prefix)):
            raise UserError(
                f"the archive's file {_quoted(name)}", "is listed twice, or inside a file"
            )
        previous, file_prefix = name, f"{name}/" if is_file else file_prefix
        parent = name.rpartition("/")[0]
        if parent and parent not in folders:  # creates at most one folder per component
            missing += parent.count("/") + 1
            if missing + len(members) > MAX_MEMBERS:
                raise damaged(f"it needs more than {MAX_MEMBERS:,} files and folders")


def _in_order(members: list[Member]) -> Iterator[tuple[str, bool]]:
    """Yields (path, whether it is a file), each folder before its contents."""
    keys = sorted((name.replace("/", "\0"), size >= 0) for name, _, _, size in members)
    return ((key.replace("\0", "/"), is_file) for key, is_file in keys)


def _quoted(name: str) -> str:
    """Returns the start of a name, in quotes."""
    return repr(name if len(name) <= 80 else f"{name[:80]}...")
