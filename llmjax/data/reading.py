"""Files as streams of bytes, whatever they are compressed with, and of documents."""

import bz2
import glob
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from llmjax.errors import UserError

BLOCK = 1 << 20
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n\s*")


def expand(patterns: tuple[str, ...]) -> list[Path]:
    """The files that paths and globs name: in the order given, a glob's in sorted order.

    Raises:
      UserError: a path does not exist or is a folder, or a glob matches no file.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        name = str(Path(pattern).expanduser())
        if Path(name).is_dir():
            fix = f"give a glob, such as {name}/**/*.txt"
            raise UserError(name, "is a folder", fix)
        if Path(name).exists():
            found[Path(name)] = None
        elif glob.has_magic(name):
            matches = sorted(m for m in glob.glob(name, recursive=True) if Path(m).is_file())
            if not matches:
                raise UserError(name, "matches no file", "check the pattern")
            found.update((Path(match), None) for match in matches)
        else:
            raise UserError(name, "does not exist", "check the path")
    return list(found)


def read_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of `path` in blocks, decompressed when it ends in .gz, .bz2, .xz or .zst.

    Raises:
      UserError: it cannot be read, or is truncated or damaged.
    """
    stream = _READERS.get(path.suffix.lower(), _plain)
    try:
        with path.open("rb") as file:
            yield from stream(file)
    except EOFError as error:
        raise UserError(path, "is truncated: its compressed data end early", "get it again") from (
            error
        )
    except (zlib.error, gzip.BadGzipFile, lzma.LZMAError, ValueError) as error:
        raise UserError(path, f"is not valid {path.suffix} data: {error}", "get it again") from (
            error
        )
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise UserError(path, reason, "check the file") from error


def compressed(path: Path) -> bool:
    """Whether the name of `path` says that it is compressed."""
    return path.suffix.lower() in _READERS


def _plain(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _gzip(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as stream:
        yield from _plain(cast(IO[bytes], stream))


def _bzip2(file: IO[bytes]) -> Iterator[bytes]:
    with bz2.open(file) as stream:
        yield from _plain(stream)


def _xz(file: IO[bytes]) -> Iterator[bytes]:
    with lzma.open(file) as stream:
        yield from _plain(stream)


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    decoder = zstandard.ZstdDecompressor().decompressobj()
    inside = False  # a frame; the library itself takes a truncated one for its end
    for block in _plain(file):
        while block:
            try:
                yield decoder.decompress(block)
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from error
            inside, block = not decoder.eof, decoder.unused_data
            if not inside:
                decoder = zstandard.ZstdDecompressor().decompressobj()
    if inside:
        raise EOFError


_READERS: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {
    ".gz": _gzip,
    ".bz2": _bzip2,
    ".xz": _xz,
    ".zst": _zstd,
}


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset, line without its end) of the decompressed file."""
    offset, rest = 0, b""
    for block in read_blocks(path):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield offset, line.removesuffix(b"\r")
            offset += len(line) + 1
    if rest:
        yield offset, rest.removesuffix(b"\r")


def read_chunks(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset, document); the documents put together are the file.

    A document ends at the first blank line after `size` bytes; without one up to 2 * size, at the
    first line end up to 4 * size; without that, at the last whole character before 4 * size.
    """
    offset, buffer, start = 0, b"", 0
    for block in read_blocks(path):
        buffer, start = buffer[start:] + block, 0
        while len(buffer) - start >= 4 * size + 4:
            length = _cut(buffer, start, size)
            yield offset, buffer[start : start + length]
            offset, start = offset + length, start + length
    buffer = buffer[start:]
    while buffer:
        length = _cut(buffer, 0, size)
        yield offset, buffer[:length]
        offset, buffer = offset + length, buffer[length:]


def _cut(buffer: bytes, start: int, size: int) -> int:
    """The length of the document that begins at `start`."""
    left = len(buffer) - start
    if left <= size:
        return left
    if found := _BLANK_LINE.search(buffer, start + size, start + 2 * size):
        return found.end() - start
    newline = buffer.find(b"\n", start + 2 * size, start + 4 * size)
    if newline >= 0:
        return newline + 1 - start
    end = min(4 * size, left)
    # UTF-8: bytes 10xxxxxx continue a character, of four bytes at most
    for back in range(min(3, end - 1) + 1):
        at = start + end - back
        if at == len(buffer) or buffer[at] & 0xC0 != 0x80:
            return end - back
    return end


def decode(path: Path, offset: int, data: bytes, errors: str) -> str:
    """UTF-8 to text; UserError with file and byte offset where `errors` is "strict"."""
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise UserError(
            path,
            f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {at}",
            'convert it, or set errors="replace"',
        ) from error
