"""Compressed files as blocks of bounded size, in bounded memory."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, TypeAlias, cast

Reader: TypeAlias = Callable[[IO[bytes], int], Iterator[bytes]]
"""(file, about how many bytes in a block) -> blocks. Raises EOFError where the file is truncated,
and one of FAULTS where it is damaged."""

FAULTS = (zlib.error, gzip.BadGzipFile, lzma.LZMAError, ValueError)

WINDOW = 1 << 27
"""Bytes of earlier output that a .zst file may refer to: what `zstd` itself takes at most unless
told otherwise."""
XZ_MEMORY = 1 << 28
"""Bytes of memory that an .xz file may ask for; `xz -9` asks for 65 MiB."""
# Four bytes of a .zst file may stand for 128 KiB, so this many for at most 32 MiB.
_ZSTD_INPUT = 1 << 10


def blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The bytes of a file that is not compressed."""
    while block := file.read(size):
        yield block


def _gzip(file: IO[bytes], size: int) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as stream:
        yield from blocks(cast(IO[bytes], stream), size)


def _bzip2(file: IO[bytes], size: int) -> Iterator[bytes]:
    with bz2.open(file) as stream:
        yield from blocks(stream, size)


def _xz(file: IO[bytes], size: int) -> Iterator[bytes]:
    """As lzma.open, which has no limit of memory."""
    data = file.read(size)
    while True:
        decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
        while not decoder.eof:
            if decoder.needs_input and not data and not (data := file.read(size)):
                raise EOFError
            if block := decoder.decompress(data, max_length=size):
                yield block
            data = b""
        data = decoder.unused_data.lstrip(b"\0")  # another stream, behind zeros that fill it up
        while not data:
            if not (more := file.read(size)):
                return
            data = more.lstrip(b"\0")


def _zstd(file: IO[bytes], size: int) -> Iterator[bytes]:
    import zstandard

    library = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    decoder, inside = library.decompressobj(), False  # a frame, whose end the library may not miss
    ready: list[bytes] = []
    length = 0
    for piece in blocks(file, _ZSTD_INPUT):
        data = piece
        while data:
            try:
                ready.append(decoder.decompress(data))
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from error
            length += len(ready[-1])
            inside, data = not decoder.eof, decoder.unused_data
            if not inside:
                decoder = library.decompressobj()
        if length >= size:
            yield b"".join(ready)
            ready, length = [], 0
    yield b"".join(ready)
    if inside:
        raise EOFError


READERS: dict[str, Reader] = {".gz": _gzip, ".bz2": _bzip2, ".xz": _xz, ".zst": _zstd}
"""Ending of a file's name -> how it is read."""
