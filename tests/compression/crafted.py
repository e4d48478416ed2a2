"""Edits archives, with correct checksums."""

import hashlib
import json
import zlib

from llmjax.compression import archive as container
from llmjax.compression.archive import CHECKSUM_BYTES, MAGIC, varint
from llmjax.compression.header import DICTIONARY


def with_checksum(data: bytes) -> bytes:
    return (
        data[:-CHECKSUM_BYTES]
        + hashlib.blake2b(data[:-CHECKSUM_BYTES], digest_size=CHECKSUM_BYTES).digest()
    )


def with_header(data: bytes, **fields) -> bytes:
    """Returns the archive with changed header fields and a correct checksum."""
    header, rest = header_of(data)
    return crafted(json.dumps(header | fields).encode(), rest)


def header_of(data: bytes) -> tuple[dict, bytes]:
    """Returns an archive's header, and the bytes after it."""
    offset = len(MAGIC) + 1
    size, shift = 0, 0
    while True:
        byte = data[offset]
        size |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            break
    inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
    header = json.loads(inflate.decompress(data[offset : offset + size]))
    return header, data[offset + size :]


def crafted(header: bytes, rest: bytes) -> bytes:
    """Returns an archive with this header, followed by these bytes."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    new = packed.compress(header) + packed.flush()
    return with_checksum(MAGIC + bytes([container.FORMAT]) + varint(len(new)) + new + rest)
