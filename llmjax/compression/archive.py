"""The container: a header, frames, and seals behind them.

    magic "\\x8fLLMJAX", format (1 byte)
    header:  length (varint), JSON deflated with a dictionary, see `header`
    frames:  kind (1 byte), length (varint), content; kind 0, without length, ends them
    SHA-256 of the original (32 bytes), BLAKE2b-64 of all bytes before (8 bytes)

Varints are little-endian, seven bits a byte, the top bit on all but the last. What a header holds
is in docs/compress.md. Nothing here needs the model.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from llmjax.compression.damage import damaged
from llmjax.compression.header import LONGEST_HEADER, packed_header, unpacked_header
from llmjax.errors import UserError

MAGIC = b"\x8fLLMJAX"
FORMAT = 2
END, STORED, ZSTD, MODEL = 0, 1, 2, 3
SEAL = 8
LONGEST_FRAME = 1 << 26


def varint(value: int) -> bytes:
    """A non-negative integer."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


@dataclass
class Cursor:
    """Reads a frame's content front to back.

    Attributes:
      data: the content.
      place: where reading stands.
    """

    data: bytes
    place: int = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes; UserError where there are fewer."""
        if size > len(self.data) - self.place:
            raise damaged("a frame is cut short")
        self.place += size
        return self.data[self.place - size : self.place]

    def varint(self) -> int:
        """The next integer; UserError where there is none below 2^56."""
        return _varint(lambda: self.take(1))


def _varint(read: Any) -> int:
    value = 0
    for shift in range(0, 56, 7):
        byte = read()
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise damaged("a number in it has no end")


class Sink(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> Any:
        """Adds bytes."""


class Writer:
    """Writes an archive to a file, from its beginning.

    Attributes:
      written: bytes so far.
    """

    def __init__(self, file: Sink, header: dict[str, Any]):
        self._file, self._digest, self.written = file, hashlib.blake2b(digest_size=SEAL), 0
        self._original = hashlib.sha256()
        packed = packed_header(header)
        self._write(MAGIC + bytes([FORMAT]) + varint(len(packed)) + packed)

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
        """Seals the archive; the file stays open."""
        self._write(bytes([END]) + self._original.digest())
        self._file.write(self._digest.digest())
        self.written += SEAL

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.written += len(data)


@dataclass(frozen=True)
class Archive:
    """An archive whose seal is whole, open for reading.

    Attributes:
      header: see docs/compress.md.
      size: bytes of the archive.
      header_size: those before the first frame.
    """

    header: dict[str, Any]
    size: int
    header_size: int
    _file: BinaryIO

    @classmethod
    def open(cls, file: BinaryIO) -> "Archive":
        """Reads the header of an archive in a seekable file, after its seal.

        Raises:
          UserError: it is no archive, of another format, cut short or changed.
        """
        start = file.read(len(MAGIC) + 1)
        if start[:-1] != MAGIC:
            raise UserError("the input", "is no llmjax archive", "give what llmjax compress wrote")
        if start[-1] != FORMAT:
            raise UserError("the archive", f"is of format {start[-1]}, not {FORMAT}", "upgrade")
        size = _check_seal(file)
        file.seek(len(start))
        length = _varint(lambda: file.read(1))
        if length > size - file.tell():
            raise damaged("its header is cut short")
        if length > LONGEST_HEADER:
            raise damaged(f"its header is of more than {LONGEST_HEADER:,} bytes")
        header = unpacked_header(file.read(length))
        return cls(header, size, file.tell(), file)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Kind and content of each frame; UserError where one cannot be right."""
        for kind, length in self._heads():
            content = self._file.read(length) if length <= LONGEST_FRAME else b""
            if len(content) != length:
                raise damaged("a frame is cut short")
            yield kind, content

    def kinds(self) -> set[int]:
        """Which kinds of frames there are, without reading what they hold."""
        found = set()
        for kind, length in self._heads():
            found.add(kind)
            self._file.seek(length, 1)
        return found

    def _heads(self) -> Iterator[tuple[int, int]]:
        """Kind and length of each frame, where the file stands behind its head.

        Raises:
          UserError: a frame is of no kind, or the last one does not end where the seals begin.
        """
        self._file.seek(self.header_size)
        while (kind := self._file.read(1)) != bytes([END]):
            if kind not in (bytes([STORED]), bytes([ZSTD]), bytes([MODEL])):
                raise damaged("a frame is of no known kind")
            length = _varint(lambda: self._file.read(1))
            if length > self.size - self._file.tell():
                raise damaged("a frame is cut short")
            yield kind[0], length
        if self._file.tell() != self.size - SEAL - 32:
            raise damaged("something lies between its last frame and its seals")

    def original_digest(self) -> bytes:
        """The SHA-256 of what was compressed."""
        self._file.seek(self.size - SEAL - 32)
        return self._file.read(32)


def _check_seal(file: BinaryIO) -> int:
    """The file's size; UserError where its last bytes are not the hash of those before."""
    file.seek(0, 2)
    size = file.tell()
    if size < len(MAGIC) + 3 + 32 + SEAL:
        raise damaged("it is cut short")
    file.seek(0)
    digest, left = hashlib.blake2b(digest_size=SEAL), size - SEAL
    while left:
        block = file.read(min(left, 1 << 20))
        digest.update(block)
        left -= len(block)
    if file.read() != digest.digest():
        raise damaged("its bytes were changed, or some are missing")
    return size
