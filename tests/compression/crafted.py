"""Archives edited by someone who knows the format: their checksums are right."""

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
    """The archive with other stored fields in its header, and a checksum that is right."""
    header, rest = header_of(data)
    return crafted(json.dumps(header | fields).encode(), rest)


def header_of(data: bytes) -> tuple[dict, bytes]:
    """An archive's header, and what follows it."""
    place = len(MAGIC) + 1
    size, shift = 0, 0
    while True:
        byte = data[place]
        size |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            break
    inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
    header = json.loads(inflate.decompress(data[place : place + size]))
    return header, data[place + size :]


def crafted(header: bytes, rest: bytes) -> bytes:
    """An archive of this header, frames and what follows them."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    new = packed.compress(header) + packed.flush()
    return with_checksum(MAGIC + bytes([container.FORMAT]) + varint(len(new)) + new + rest)
