"""The container: a header, frames, and checksums behind them. Nothing here needs the model.

    magic "\\x8fLLMJAX", format (1 byte)
    header:  length (varint), JSON deflated with a dictionary, see `header`
    frames:  kind (1 byte), length (varint), content; kind 0, without length, ends them
    SHA-256 of the original (32 bytes), BLAKE2b-64 of all bytes before (8 bytes)

Varints are little-endian, seven bits per byte, the top bit set on all but the last. The fields of a
header are listed in docs/compress.md.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from llmjax.compression.header import MAX_HEADER_BYTES, damaged, pack_header, unpack_header
from llmjax.errors import UserError

MAGIC = b"\x8fLLMJAX"
FORMAT = 2
END, STORED, ZSTD, MODEL = 0, 1, 2, 3
KINDS = {STORED: "stored", ZSTD: "zstd", MODEL: "model"}
SHA_BYTES, CHECKSUM_BYTES = 32, 8
TAIL_BYTES = 1 + SHA_BYTES + CHECKSUM_BYTES
"""What follows the last frame: the end mark, the original's SHA-256, the archive's checksum."""
MAX_FRAME_BYTES = 1 << 26


def varint(value: int) -> bytes:
    """A non-negative integer."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _read_varint(read: Callable[[int], bytes]) -> int:
    value = 0
    for shift in range(0, 56, 7):
        byte = read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise damaged("a number in it has no end")


@dataclass
class FrameReader:
    """Reads the content of a frame from front to back.

    Attributes:
      data: the content.
      position: where reading stands.
    """

    data: bytes
    position: int = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes; UserError where there are fewer."""
        if size > len(self.data) - self.position:
            raise damaged("a frame is cut short")
        self.position += size
        return self.data[self.position - size : self.position]

    def varint(self) -> int:
        """The next integer; UserError where there is none below 2^56."""
        return _read_varint(self.take)


class Writable(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> Any:
        """Adds bytes."""


class ArchiveWriter:
    """Writes an archive to a file, from its beginning.

    Attributes:
      header_size: bytes before the first frame.
      written: bytes so far.
    """

    def __init__(self, file: Writable, header: dict[str, Any]):
        self._file, self._original = file, hashlib.sha256()
        self._checksum, self.written = hashlib.blake2b(digest_size=CHECKSUM_BYTES), 0
        packed = pack_header(header)
        self._write(MAGIC + bytes([FORMAT]) + varint(len(packed)) + packed)
        self.header_size = self.written

    def frame(self, kind: int, content: bytes, original: bytes) -> None:
        """Adds a frame.

        Args:
          kind: STORED, ZSTD or MODEL.
          content: what is stored.
          original: what it stands for.
        """
        self._original.update(original)
        self._write(bytes([kind]) + varint(len(content)) + content)

    def close(self) -> None:
        """Adds the checksums; the file stays open."""
        self._write(bytes([END]) + self._original.digest())
        self._write(self._checksum.digest())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._checksum.update(data)
        self.written += len(data)


@dataclass(frozen=True)
class Archive:
    """An archive whose checksum is right, open for reading.

    Attributes:
      header: see docs/compress.md.
      size: bytes of the archive.
      header_size: bytes before the first frame.
    """

    header: dict[str, Any]
    size: int
    header_size: int
    _file: BinaryIO

    @classmethod
    def open(cls, file: BinaryIO) -> "Archive":
        """Checks the archive in a seekable file, and reads its header.

        Raises:
          UserError: it is no archive, of another format, cut short or changed.
        """
        start = file.read(len(MAGIC) + 1)
        if start[:-1] != MAGIC:
            raise UserError("the input", "is not an llmjax archive", "name one by llmjax compress")
        if start[-1] != FORMAT:
            reason = f"has format {start[-1]}, this version reads {FORMAT}"
            raise UserError("the archive", reason, "upgrade")
        size = _check_checksum(file)
        file.seek(len(start))
        length = _read_varint(file.read)
        if length > size - file.tell():
            raise damaged("its header is cut short")
        if length > MAX_HEADER_BYTES:
            raise damaged(f"its header has more than {MAX_HEADER_BYTES:,} bytes")
        header = unpack_header(file.read(length))
        return cls(header, size, file.tell(), file)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Kind and content of each frame; UserError where one is malformed."""
        for kind, length in self._frame_heads():
            content = self._file.read(length) if length <= MAX_FRAME_BYTES else b""
            if len(content) != length:
                raise damaged("a frame is cut short")
            yield kind, content

    def kinds(self) -> set[int]:
        """The kinds of frames that occur, without reading their content."""
        kinds = set()
        for kind, length in self._frame_heads():
            kinds.add(kind)
            self._file.seek(length, 1)
        return kinds

    def _frame_heads(self) -> Iterator[tuple[int, int]]:
        """Kind and length of each frame, the file's position being behind them.

        Raises:
          UserError: a kind is unknown, or the last frame does not end where the checksums begin.
        """
        self._file.seek(self.header_size)
        while (kind := self._file.read(1)) != bytes([END]):
            if not kind or kind[0] not in KINDS:
                raise damaged("a frame is of no known kind")
            length = _read_varint(self._file.read)
            if length > self.size - self._file.tell():
                raise damaged("a frame is cut short")
            yield kind[0], length
        if self._file.tell() != self.size - TAIL_BYTES + 1:
            raise damaged("something lies between its last frame and its checksums")

    def original_digest(self) -> bytes:
        """The SHA-256 of what was compressed."""
        self._file.seek(self.size - TAIL_BYTES + 1)
        return self._file.read(SHA_BYTES)


def _check_checksum(file: BinaryIO) -> int:
    """The file's size; UserError where its last bytes are not the hash of those before."""
    size = file.seek(0, 2)
    if size < len(MAGIC) + 2 + TAIL_BYTES:
        raise damaged("it is cut short")
    file.seek(0)
    checksum, left = hashlib.blake2b(digest_size=CHECKSUM_BYTES), size - CHECKSUM_BYTES
    while left:
        block = file.read(min(left, 1 << 20))
        checksum.update(block)
        left -= len(block)
    if file.read() != checksum.digest():
        raise damaged("its bytes were changed, or some are missing")
    return size
