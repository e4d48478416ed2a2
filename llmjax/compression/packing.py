"""What frames are packed with: zstd, and numbers near one another in as few bits as hold them."""

import numpy as np
import zstandard

from llmjax.compression.archive import Cursor, varint
from llmjax.compression.damage import damaged
from llmjax.errors import UserError

LEVEL = 19
LARGEST_BITS = 32
LARGEST_WINDOW = 1 << 23
"""Bytes that a zstd frame may look back on: more than `LEVEL` asks for."""


def packed(data: bytes) -> bytes:
    """A zstd frame of these bytes."""
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=False).compress(data)


def unpacked(data: bytes, most: int) -> bytes:
    """What a zstd frame stands for; UserError where it is none, or holds more than `most` bytes."""
    try:
        if zstandard.get_frame_parameters(data).content_size > most:
            raise damaged("a frame claims to hold more than any can")
        inner = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        return inner.decompress(data, max_output_size=most)
    except zstandard.ZstdError as error:
        raise UserError("the archive", f"is damaged: {error}") from error


def packed_numbers(numbers: list[int]) -> bytes:
    """The least one (varint), the bits of the largest difference to it (1 byte), and the
    differences in so many bits each, least significant first, up to a whole byte."""
    least = min(numbers)
    bits = (max(numbers) - least).bit_length()
    differences = np.array(numbers, np.int64)[:, None] - least
    places = (differences >> np.arange(bits) & 1).astype(np.uint8)
    return varint(least) + bytes([bits]) + np.packbits(places, bitorder="little").tobytes()


def unpacked_numbers(cursor: Cursor, count: int) -> list[int]:
    """As many numbers as were packed; UserError where they do not end, or are too large."""
    least, bits = cursor.varint(), cursor.take(1)[0]
    if bits > LARGEST_BITS:
        raise damaged("a frame claims to hold more than any can")
    data = np.frombuffer(cursor.take(-(-count * bits // 8)), np.uint8)
    places = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return (least + (places.astype(np.int64) << np.arange(bits)).sum(-1)).tolist()
