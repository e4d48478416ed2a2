"""Files as streams of bytes, whatever they are compressed with, and of lines and documents."""

import bz2
import glob
import gzip
import itertools
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TypeAlias, cast

from llmjax.errors import UserError
from llmjax.storage.bounded import BOM, other_encoding, size_text
from llmjax.storage.json_documents import RECORD

BLOCK = 1 << 20
LONGEST_LINE = RECORD.size
"""Bytes of a line at most."""
LARGEST_DOCUMENT = 1 << 28
"""Bytes of a document at most: a whole file with split="file", or a value of a Parquet file."""
BOMB_SIZE = 1 << 28
BOMB_RATIO = 250
"""No text decompresses to more than BOMB_SIZE bytes and this many times the size of its file."""
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n\s*")
Decompressor: TypeAlias = Callable[[IO[bytes], int], Iterator[bytes]]
"""(file, about how many bytes in a block) -> blocks. Raises EOFError where the file is truncated,
and one of DAMAGE where it is damaged."""

DAMAGE = (zlib.error, gzip.BadGzipFile, lzma.LZMAError, ValueError)

WINDOW = 1 << 27
"""Bytes of earlier output that a .zst file may refer to: what `zstd` itself takes at most by
default."""
XZ_MEMORY = 1 << 28
"""Bytes of memory that an .xz file may ask for; `xz -9` asks for 65 MiB."""
# Four bytes of a .zst file may stand for 128 KiB, so this many for at most 32 MiB.
_ZSTD_INPUT = 1 << 10


def expand(patterns: tuple[str, ...]) -> list[Path]:
    """The files that paths and globs name: in the order given, a glob's in sorted order.

    Raises:
      UserError: a path does not exist or is no regular file, or a glob matches none.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        name = str(Path(pattern).expanduser())
        if Path(name).is_dir():
            fix = f"give a glob, such as {name}/**/*.txt"
            raise UserError(name, "is a folder", fix)
        if Path(name).is_file():
            files[Path(name)] = None
        elif os.path.exists(name):  # a pipe, which could be read but once, or a device
            raise UserError(name, "is not a regular file", "write what it gives to a file first")
        elif glob.has_magic(name):
            matches = sorted(m for m in glob.glob(name, recursive=True) if Path(m).is_file())
            if not matches:
                raise UserError(name, "matches no file", "check the pattern")
            files.update((Path(match), None) for match in matches)
        else:
            raise UserError(name, "does not exist", "check the path")
    return list(files)


def read_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of `path` in blocks, decompressed when it ends in .gz, .bz2, .xz or .zst.

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
                limit = max(BOMB_SIZE, BOMB_RATIO * os.fstat(file.fileno()).st_size)
                yield from _limited(decompress(file, BLOCK), limit, path)
    except EOFError as error:
        reason = "is truncated: its compressed data end early"
        raise UserError(path, reason, "get it again") from error
    except DAMAGE as error:
        reason = f"is not valid {path.suffix} data: {error}"
        raise UserError(path, reason, "get it again") from error
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise UserError(path, reason, "check the file") from error


def _limited(blocks: Iterator[bytes], limit: int, path: Path) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > limit:
            reason = f"decompresses to over {size_text(limit)}, {BOMB_RATIO} times its size or more"
            raise UserError(path, reason, "decompress it first if that is meant")
        yield block


def compressed(path: Path) -> bool:
    """Whether the name of `path` says that it is compressed."""
    return path.suffix.lower() in DECOMPRESSORS


def _plain(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The bytes of a file that is not compressed."""
    while block := file.read(size):
        yield block


def _gzip(file: IO[bytes], size: int) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as stream:
        yield from _plain(cast(IO[bytes], stream), size)


def _bzip2(file: IO[bytes], size: int) -> Iterator[bytes]:
    with bz2.open(file) as stream:
        yield from _plain(stream, size)


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
"""Ending of a file's name -> how it is read."""


def text_blocks(blocks: Iterable[bytes], name: object) -> tuple[int, Iterator[bytes]]:
    """Blocks of UTF-8 text without the byte order mark that they may begin with.

    Args:
      blocks: of bytes.
      name: where they come from, for messages.

    Returns:
      How many bytes were left out, and the blocks.

    Raises:
      UserError: a byte order mark says that the text is not UTF-8.
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
    r"""Yields (byte offset, line with its end) of UTF-8 text, a byte order mark left out.

    Args:
      blocks: of bytes.
      name: where they come from, for messages.
      end: what ends a line; None: \r where that is what ends the first one, else \n.

    Raises:
      UserError: a line is longer than LONGEST_LINE, or the text declares another encoding.
    """
    offset, texts = text_blocks(blocks, name)
    number, held, parts = 1, 0, list[bytes]()
    for block in texts:
        end = end or _line_end(block)
        first, *more = block.split(end)
        parts.append(first)
        held += len(first)
        if held > LONGEST_LINE:
            reason = f"is longer than {size_text(LONGEST_LINE)}"
            raise UserError(f"{name} line {number}", reason, "break it up")
        if more:
            for line in (b"".join(parts), *more[:-1]):
                yield offset, line + end
                offset += len(line) + 1
            number += len(more)
            parts, held = [more[-1]], len(more[-1])
    if held:
        yield offset, b"".join(parts)


def _line_end(text: bytes) -> bytes:
    r"""\r of a file whose lines end in it alone, as on old Macs, else \n."""
    at = text.find(b"\r")
    alone = at >= 0 and text[at + 1 : at + 2] != b"\n" and b"\n" not in text[:at]
    return b"\r" if alone else b"\n"


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset, line without its end) of the decompressed file; see split_lines."""
    for offset, line in split_lines(read_blocks(path), path):
        yield offset, line.removesuffix(b"\n").removesuffix(b"\r")


def read_whole(path: Path, limit: int = LARGEST_DOCUMENT) -> tuple[int, bytes]:
    """(byte offset, all of the decompressed file behind its byte order mark).

    Raises:
      UserError: it is larger than `limit` bytes, or declares another encoding.
    """
    offset, texts = text_blocks(read_blocks(path), path)
    parts, size = [], 0
    for block in texts:
        parts.append(block)
        size += len(block)
        if size > limit:
            reason = f"is larger than {size_text(limit)}, and it is read into memory"
            raise UserError(path, reason, "split it into several files, or read it in parts")
    return offset, b"".join(parts)


def read_chunks(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset, document); the documents put together are the file, without the byte
    order mark that it may begin with.

    A document ends at the first blank line after `size` bytes; without one up to 2 * size, at the
    first line end up to 4 * size; without that, at the last whole character before 4 * size.
    """
    offset, texts = text_blocks(read_blocks(path), path)
    parts, held = list[bytes](), 0
    for block in texts:
        parts.append(block)
        held += len(block)
        if held < 4 * size + 4:
            continue
        buffer, start = b"".join(parts), 0
        while len(buffer) - start >= 4 * size + 4:
            length = _cut(buffer, start, size)
            yield offset, buffer[start : start + length]
            offset, start = offset + length, start + length
        parts, held = [buffer[start:]], len(buffer) - start
    buffer = b"".join(parts)
    while buffer:
        length = _cut(buffer, 0, size)
        yield offset, buffer[:length]
        offset, buffer = offset + length, buffer[length:]


def _cut(buffer: bytes, start: int, size: int) -> int:
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
