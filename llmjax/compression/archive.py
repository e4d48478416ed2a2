"""The container format: a header, frames, checksums. Independent of the model.

    magic "\\x8fLLMJAX", format (1 byte)
    header:  length (varint), JSON deflated with a dictionary, see `header`
    frames:  kind (1 byte), length (varint), content; kind 0, without length, ends them
    SHA-256 of the original (32 bytes), BLAKE2b-64 of all preceding bytes (8 bytes)

Varints are little-endian, seven bits per byte, with the top bit set on all but the last.
docs/compress.md lists the fields of the header.
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
"""Bytes after the last frame: end mark, SHA-256 of the original, checksum of the archive."""
MAX_FRAME_BYTES = 1 << 26


def varint(value: int) -> bytes:
    """Encodes a non-negative integer."""
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
    raise damaged("an integer in it is not terminated")


@dataclass
class FrameReader:
    """Reads the content of a frame sequentially.

    Attributes:
      data: the content.
      position: offset of the next byte.
    """

    data: bytes
    position: int = 0

    def take(self, size: int) -> bytes:
        """Returns the next `size` bytes; raises UserError if there are fewer."""
        if size > len(self.data) - self.position:
            raise damaged("a frame is cut short")
        self.position += size
        return self.data[self.position - size : self.position]

    def varint(self) -> int:
        """Returns the next integer; raises UserError if it is cut short or not below 2^56."""
        return _read_varint(self.take)


class Writable(Protocol):
    """A file to write an archive to."""

    def write(self, data: bytes, /) -> Any:
        """Appends bytes."""


class ArchiveWriter:
    """Writes an archive to a file, starting with the header.

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
        """Appends a frame.

        Args:
          kind: STORED, ZSTD or MODEL.
          content: the encoded bytes.
          original: the bytes that they encode.
        """
        self._original.update(original)
        self._write(bytes([kind]) + varint(len(content)) + content)

    def close(self) -> None:
        """Appends the checksums; leaves the file open."""
        self._write(bytes([END]) + self._original.digest())
        self._write(self._checksum.digest())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._checksum.update(data)
        self.written += len(data)


@dataclass(frozen=True)
class Archive:
    """An archive with a verified checksum, open for reading.

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
        """Verifies the archive in a seekable file and reads its header.

        Raises:
          UserError: it is not an archive, has another format, is cut short or was changed.
        """
        start = file.read(len(MAGIC) + 1)
        if start[:-1] != MAGIC:
            fix = "give a file written by llmjax compress"
            raise UserError("the input", "is not an llmjax archive", fix)
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
        """Yields kind and content of each frame; raises UserError if one is malformed."""
        for kind, length in self._frame_heads():
            content = self._file.read(length) if length <= MAX_FRAME_BYTES else b""
            if len(content) != length:
                raise damaged("a frame is cut short")
            yield kind, content

    def kinds(self) -> set[int]:
        """Returns the kinds of the frames, without reading their content."""
        kinds = set()
        for kind, length in self._frame_heads():
            kinds.add(kind)
            self._file.seek(length, 1)
        return kinds

    def _frame_heads(self) -> Iterator[tuple[int, int]]:
        """Yields kind and length of each frame, with the file positioned at its content.

        Raises:
          UserError: a kind is unknown, or the last frame does not end where the checksums begin.
        """
        self._file.seek(self.header_size)
        while (kind := self._file.read(1)) != bytes([END]):
            if not kind or kind[0] not in KINDS:
                raise damaged("a frame is of an unknown kind")
            length = _read_varint(self._file.read)
            if length > self.size - self._file.tell():
                raise damaged("a frame is cut short")
            yield kind[0], length
        if self._file.tell() != self.size - TAIL_BYTES + 1:
            raise damaged("there are bytes between its last frame and its checksums")

    def original_digest(self) -> bytes:
        """Returns the SHA-256 of the original."""
        self._file.seek(self.size - TAIL_BYTES + 1)
        return self._file.read(SHA_BYTES)


def _check_checksum(file: BinaryIO) -> int:
    """Returns the file's size; raises UserError if its last bytes are not the hash of the rest."""
    size = file.seek(0, 2)
    if size < len(MAGIC) + 2 + TAIL_BYTES:
        raise damaged("it is cut short")
    file.seek(0)
    checksum, remaining = hashlib.blake2b(digest_size=CHECKSUM_BYTES), size - CHECKSUM_BYTES
    while remaining:
        block = file.read(min(remaining, 1 << 20))
        checksum.update(block)
        remaining -= len(block)
    if file.read() != checksum.digest():
        raise damaged("its checksum differs: bytes were changed or are missing")
    return size
