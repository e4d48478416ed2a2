"""The header of an archive: JSON, deflated with a dictionary, within limits.

A few hundred bytes of an archive can inflate to a thousand times as many, and these to values that
take ten times their memory. So the size is bounded before anything is inflated, the number of
values before any is made, and every number and text before it is used.
"""

import json
import zlib
from collections.abc import Iterator
from typing import Any

from llmjax.compression.damage import damaged
from llmjax.compression.members import MOST_MEMBERS, checked_members
from llmjax.errors import UserError
from llmjax.storage.json_documents import JsonLimits, parse_json

LONGEST_HEADER = 64 << 20
"""Bytes of a header's JSON: 134 for each of `MOST_MEMBERS`; one of a path of 60 characters takes
about 100."""

MOST_FIELDS = 1000
"""Values of a header beside its list of files; those written today are about 30."""

LONGEST_TEXT = 1 << 16
"""Characters of such a value: the longest are the compiler's flags."""

LIMITS = JsonLimits(size=LONGEST_HEADER, marks=6 * MOST_MEMBERS, depth=3)
"""A member has five marks, and one for a comma in its name."""

# A header like most, so that only what differs takes room. Part of the format: never changed.
_TYPICAL = (
    b'{"llmjax":"0.1.0","size":1000000,"step":0,"dtype":"bfloat16","model":"","tokenizer":"",'
    b'"canary":"","lanes":16,"context":512,"stride":384,"groups":1,"windows":true,"environment":{"jax":'
    b'"0.10.2","jaxlib":"0.10.2","platform":"cpu","device":"cpu","cores":2,"flags":"--xla_",'
    b'"machine":"x86_64","processor":"Intel(R) Xeon(R) Processor @ GHz AMD EPYC -Core Processor",'
    b'"precision":null},"files":null'
)


def packed_header(header: dict[str, Any]) -> bytes:
    """A header as an archive holds it.

    Raises:
      UserError: it has more than `unpacked_header` reads.
    """
    plain = json.dumps(header, separators=(",", ":")).encode()
    try:
        _parsed(plain)
    except UserError as error:
        raise UserError(
            "the header", f"would be more than is read: {error.reason}", "compress fewer files"
        ) from error
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=_TYPICAL)
    return deflate.compress(plain) + deflate.flush()


def unpacked_header(packed: bytes) -> dict[str, Any]:
    """The header that these bytes stand for; all of it may be used and printed.

    Raises:
      UserError: they are none, or it exceeds a limit or contradicts itself.
    """
    inflate = zlib.decompressobj(-15, zdict=_TYPICAL)
    try:
        plain = inflate.decompress(packed, LONGEST_HEADER + 1)
    except zlib.error as error:
        raise damaged(f"its header cannot be inflated: {error}") from error
    if len(plain) > LONGEST_HEADER:
        raise damaged(f"its header is of more than {LONGEST_HEADER:,} bytes")
    if not inflate.eof or inflate.unused_data:
        raise damaged("its header is cut short, or something follows it")
    return _parsed(plain)


def _parsed(plain: bytes) -> dict[str, Any]:
    try:
        header = parse_json(plain, "the header", limits=LIMITS)
    except UserError as error:
        raise damaged(f"its header {error.reason}") from error
    if not isinstance(header, dict):
        raise damaged("its header is no JSON object")
    _check_fields({name: value for name, value in header.items() if name != "files"})
    size, mode, changed = (header.get(name) for name in ("size", "mode", "time"))
    if type(size) is not int or size < 0:
        raise damaged("its header has no size")
    if mode is not None and (type(mode) is not int or not 0 <= mode <= 0o777):
        raise damaged("its mode is impossible")
    if changed is not None and type(changed) is not int:
        raise damaged("its time is impossible")
    files = header.get("files")
    if files is not None and size != sum(max(0, member[3]) for member in checked_members(files)):
        raise damaged("its files have other sizes than the whole")
    return header


def _check_fields(fields: dict[str, Any]) -> None:
    """UserError where there are too many values, or one of them is too large."""
    for number, value in enumerate(_plain_values(fields)):
        if number >= MOST_FIELDS:
            raise damaged(f"its header has more than {MOST_FIELDS:,} values beside its files")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise damaged(f"its header has a text of more than {LONGEST_TEXT:,} characters")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise damaged("its header has a number that does not fit 64 bits")


def _plain_values(value: Any) -> Iterator[Any]:
    """Every name, value and container within a value."""
    yield value
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _plain_values(item)
    elif isinstance(value, list):
        for item in value:
            yield from _plain_values(item)
