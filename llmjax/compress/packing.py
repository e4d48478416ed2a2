"""zstd, as frames use it."""

import zstandard

from llmjax.compress.archive import damaged
from llmjax.errors import UserError

LEVEL = 19


def packed(data: bytes) -> bytes:
    """A zstd frame of these bytes."""
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=False).compress(data)


def unpacked(data: bytes, most: int) -> bytes:
    """What a zstd frame stands for; UserError where it is none, or holds more than `most` bytes."""
    try:
        if zstandard.get_frame_parameters(data).content_size > most:
            raise damaged("a frame claims to hold more than any can")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=most)
    except zstandard.ZstdError as error:
        raise UserError("the archive", f"is damaged: {error}") from error
