"""Reads files as streams of blocks, lines or documents, decompressing them on the fly."""

import bz2
import contextlib
import glob
import gzip
import itertools
import lzma
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TypeAlias, cast

from llmjax.errors import UserError
from llmjax.storage.bounded import BOM, other_encoding, size_text
from llmjax.storage.json_documents import RECORD
from llmjax.storage.stores.path import Location, StorePath, has_magic, location

BLOCK = 1 << 20
LONGEST_LINE = RECORD.size
"""Maximum bytes of a line."""
LARGEST_DOCUMENT = 1 << 28
"""Maximum bytes of a document: a whole file with split="file", or a value of a Parquet file."""
BOMB_SIZE = 1 << 28
BOMB_RATIO = 250
"""A file that decompresses to more than BOMB_SIZE bytes and this many times its size is refused: no
text does."""
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n\s*")
Decompressor: TypeAlias = Callable[[IO[bytes], int], Iterator[bytes]]
"""(file, approximate block size) -> blocks. Raises EOFError for truncated files, and one of DAMAGE
for damaged ones."""

DAMAGE = (zlib.error, gzip.BadGzipFile, lzma.LZMAError, ValueError)

WINDOW = 1 << 27
"""Maximum window of a .zst file in bytes: the default limit of `zstd` itself."""
XZ_MEMORY = 1 << 28
"""Maximum memory of an .xz decoder in bytes; `xz -9` needs 65 MiB."""
# Four bytes of a .zst file may expand to 128 KiB, so this many to at most 32 MiB.
_ZSTD_INPUT = 1 << 10


def expand(patterns: tuple[str, ...]) -> list[Location]:
    """Expands paths and globs to files, in the order given; a glob's are sorted.

    Raises:
      UserError: a path does not exist or is not a regular file, or a glob matches no file.
    """
    files: dict[Location, None] = {}
    for pattern in patterns:
        if pattern.startswith(("http://", "https://")):
            raise UserError(pattern, "is an address, not a file", "download it first")
        if isinstance(place := location(pattern), StorePath):
            files.update((path, None) for path in _expand_in_store(place))
            continue
        name = str(place.expanduser())
        if Path(name).is_dir():
            fix = f"give a glob, such as {name}/**/*.txt"
            raise UserError(name, "is a folder", fix)
        if Path(name).is_file():
            files[Path(name)] = None
        elif os.path.exists(name):  # a pipe, which can be read only once, or a device
            raise UserError(name, "is not a regular file", "write its content to a file first")
        elif glob.has_magic(name):
            names = glob.glob(name, recursive=True)
            matches = sorted(match for match in names if Path(match).is_file())
            if not matches:
                raise UserError(name, "matches no file", "check the pattern")
            files.update((Path(match), None) for match in matches)
        else:
            raise UserError(name, "does not exist", "check the path")
    return list(files)


def _expand_in_store(pattern: StorePath) -> list[StorePath]:
    if has_magic(pattern.key):
        if not (matches := pattern.glob()):
            raise UserError(pattern, "matches no object", "check the pattern")
        return matches
    if not pattern.is_file():
        if pattern.is_dir():
            raise UserError(pattern, "is a folder", f"give a glob, such as {pattern}/**/*.txt")
        raise UserError(pattern, "does not exist", "check the path")
    return [pattern]


def read_blocks(path: Location) -> Iterator[bytes]:
    """Yields the content of a file in blocks; .gz, .bz2, .xz and .zst files are decompressed.

    Raises:
      UserError: it cannot be read, is truncated or damaged, or decompresses to far more than text
        would.
    """
    decompress = DECOMPRESSORS.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            if decompress is None:
                yield from _plain(file, BLOCK)
            else:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                limit = max(BOMB_SIZE, BOMB_RATIO * size)
                yield from _limited(decompress(file, BLOCK), limit, path)
    except EOFError as error:
        reason = "is truncated: its compressed data ends early"
        raise UserError(path, reason, "download it again") from error
    except DAMAGE as error:
        reason = f"is not valid {path.suffix} data: {error}"
        raise UserError(path, reason, "download it again") from error
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise UserError(path, reason, "check the file") from error


def _limited(blocks: Iterator[bytes], limit: int, path: Location) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > limit:
            reason = f"decompresses to over {size_text(limit)}, {BOMB_RATIO} times its size or more"
            raise UserError(path, reason, "decompress it first if this is intended")
        yield block


def compressed(path: Location) -> bool:
    """Whether the suffix of `path` is that of a compressed file."""
    return path.suffix.lower() in DECOMPRESSORS


@contextlib.contextmanager
def open_seekable(path: Location) -> Iterator[IO[bytes]]:
    """Opens a file whose index is at its end; a compressed one is decompressed to a temporary one.

    Raises:
      UserError: as `read_blocks`.
    """
    if not compressed(path):
        try:
            file = path.open("rb")
        except OSError as error:
            raise UserError(path, f"cannot be read: {error.strerror}", "check the file") from error
        with file:
            yield file
        return
    with tempfile.TemporaryFile() as temporary:
        for block in read_blocks(path):
            temporary.write(block)
        temporary.seek(0)
        yield temporary


def _plain(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Blocks of a file as they are."""
    while block := file.read(size):
        yield block


def _gzip(file: IO[bytes], size: int) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as stream:
        yield from _plain(cast(IO[bytes], stream), size)


def _bzip2(file: IO[bytes], size: int) -> Iterator[bytes]:
    with bz2.open(file) as stream:
        yield from _plain(stream, size)


def _xz(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Like lzma.open, with a memory limit."""
    data = file.read(size)
    while True:
        decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
        while not decoder.eof:
            if decoder.needs_input and not data and not (data := file.read(size)):
                raise EOFError
            if block := decoder.decompress(data, max_length=size):
                yield block
            data = b""
        data = decoder.unused_data.lstrip(b"\0")  # another stream, after padding
        while not data:
            if not (more := file.read(size)):
                return
            data = more.lstrip(b"\0")


def _zstd(file: IO[bytes], size: int) -> Iterator[bytes]:
    import zstandard

    library = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    decoder, inside = library.decompressobj(), False  # a frame, which the library lets end early
    ready: list[bytes] = []
    length = 0
    for piece in _plain(file, _ZSTD_INPUT):
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


DECOMPRESSORS: dict[str, Decompressor] = {".gz": _gzip, ".bz2": _bzip2, ".xz": _xz, ".zst": _zstd}
"""By file suffix."""


def text_blocks(blocks: Iterable[bytes], name: object) -> tuple[int, Iterator[bytes]]:
    """Strips the byte order mark off UTF-8 text.

    Args:
      blocks: of bytes.
      name: of the source, for messages.

    Returns:
      The number of bytes stripped, and the blocks.

    Raises:
      UserError: the byte order mark is that of another encoding.
    """
    rest, start = iter(blocks), b""
    while len(start) < 4 and (block := next(rest, None)) is not None:
        start += block
    if encoding := other_encoding(start):
        raise UserError(name, f"is {encoding}", "convert it: iconv -f UTF-16 -t UTF-8")
    skipped = len(BOM) if start.startswith(BOM) else 0
    return skipped, itertools.chain([start[skipped:]], rest)


def split_lines(
    blocks: Iterable[bytes], name: object, end: bytes | None = b"\n"
) -> Iterator[tuple[int, bytes]]:
    r"""Yields (byte offset, line with its end) of UTF-8 text without its byte order mark.

    Args:
      blocks: of bytes.
      name: of the source, for messages.
      end: line separator; None: \r if that ends the first line, else \n.

    Raises:
      UserError: a line is longer than LONGEST_LINE, or the byte order mark is that of another
        encoding.
    """
    offset, texts = text_blocks(blocks, name)
    number, size, parts = 1, 0, list[bytes]()
    for block in texts:
        end = end or _line_end(block)
        first, *more = block.split(end)
        parts.append(first)
        size += len(first)
        if size > LONGEST_LINE:
            reason = f"is longer than {size_text(LONGEST_LINE)}"
            raise UserError(f"{name} line {number}", reason, "break it up")
        if more:
            for line in (b"".join(parts), *more[:-1]):
                yield offset, line + end
                offset += len(line) + 1
            number += len(more)
            parts, size = [more[-1]], len(more[-1])
    if size:
        yield offset, b"".join(parts)


def _line_end(text: bytes) -> bytes:
    r"""\r for text whose lines end in \r alone, as on old Macs, else \n."""
    index = text.find(b"\r")
    alone = index >= 0 and text[index + 1 : index + 2] != b"\n" and b"\n" not in text[:index]
    return b"\r" if alone else b"\n"


def read_lines(path: Location) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset, line without its end) of the decompressed file; see `split_lines`."""
    for offset, line in split_lines(read_blocks(path), path):
        yield offset, line.removesuffix(b"\n").removesuffix(b"\r")


def read_whole(path: Location, limit: int = LARGEST_DOCUMENT) -> tuple[int, bytes]:
    """Reads a decompressed file without its byte order mark: (bytes stripped, content).

    Raises:
      UserError: it is larger than `limit` bytes, or of another encoding by its byte order mark.
    """
    offset, texts = text_blocks(read_blocks(path), path)
    parts, size = [], 0
    for block in texts:
        parts.append(block)
        size += len(block)
        if size > limit:
            reason = f"is larger than {size_text(limit)}, the most that is read into memory"
            raise UserError(path, reason, "split it into several files, or read it in parts")
    return offset, b"".join(parts)


def read_chunks(path: Location, size: int) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset, document); the documents concatenated are the file without its byte
    order mark.

    A document ends at the first blank line after `size` bytes; if there is none up to 2 * size, at
    the first line end up to 4 * size; else after the last complete character before 4 * size.
    """
    offset, texts = text_blocks(read_blocks(path), path)
    parts, buffered = list[bytes](), 0
    for block in texts:
        parts.append(block)
        buffered += len(block)
        if buffered < 4 * size + 4:
            continue
        buffer, start = b"".join(parts), 0
        while len(buffer) - start >= 4 * size + 4:
            length = _document_length(buffer, start, size)
            yield offset, buffer[start : start + length]
            offset, start = offset + length, start + length
        parts, buffered = [buffer[start:]], len(buffer) - start
    buffer = b"".join(parts)
    while buffer:
        length = _document_length(buffer, 0, size)
        yield offset, buffer[:length]
        offset, buffer = offset + length, buffer[length:]


def _document_length(buffer: bytes, start: int, size: int) -> int:
    """The length of the document that begins at `start`."""
    left = len(buffer) - start
    if left <= size:
        return left
    if match := _BLANK_LINE.search(buffer, start + size, start + 2 * size):
        return match.end() - start
    newline = buffer.find(b"\n", start + 2 * size, start + 4 * size)
    if newline >= 0:
        return newline + 1 - start
    end = min(4 * size, left)
    # UTF-8: bytes 10xxxxxx continue a character, of four bytes at most
    for back in range(min(3, end - 1) + 1):
        index = start + end - back
        if index == len(buffer) or buffer[index] & 0xC0 != 0x80:
            return end - back
    return end


def decode(path: Location, offset: int, data: bytes, errors: str) -> str:
    """Decodes UTF-8; if `errors` is "strict", raises a UserError with file and byte offset."""
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise UserError(
            path,
            f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}",
            'convert it, or set errors="replace"',
        ) from error
