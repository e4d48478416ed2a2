"""Classical compressors on the same text, as baselines."""

import bz2
import lzma
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import brotli
import zstandard
from rich import box
from rich.table import Table
from rich.text import Text

from llmjax.errors import UserError


class Stream(Protocol):
    """A streaming compressor."""

    def compress(self, data: bytes, /) -> bytes:
        """Take more text; return the archive bytes that are ready."""

    def flush(self) -> bytes:
        """Return the rest of the archive."""


@dataclass(frozen=True)
class Compressor:
    """A general-purpose compressor at its strongest usual setting.

    Attributes:
      name: as at a shell, such as "xz -9e".
      start: starts a stream for a text of the given size in bytes.
      decompress: restores the text from the archive.
    """

    name: str
    start: Callable[[int], Stream]
    decompress: Callable[[bytes], bytes]

    def compress(self, text: bytes) -> bytes:
        """Compress a text in memory."""
        stream = self.start(len(text))
        return stream.compress(text) + stream.flush()


@dataclass(frozen=True)
class Baseline:
    """The result of one compressor on one text.

    Attributes:
      name: the compressor's name.
      compressed_bytes: size of the archive, headers and checksums included.
      original_bytes: size of the text.
      seconds: wall-clock time of compression, on one thread.
    """

    name: str
    compressed_bytes: int
    original_bytes: int
    seconds: float

    @property
    def bits_per_byte(self) -> float:
        """8 x compressed bytes / original bytes."""
        return 8 * self.compressed_bytes / self.original_bytes


class _Brotli:
    """Brotli as a `Stream`, with the window of the command-line tool, 2^24 bytes, which exceeds the
    library's default."""

    def __init__(self) -> None:
        self._inner = brotli.Compressor(quality=11, lgwin=24)

    def compress(self, data: bytes, /) -> bytes:
        return bytes(self._inner.process(data))

    def flush(self) -> bytes:
        return bytes(self._inner.finish())


FAILURES = (OSError, MemoryError, lzma.LZMAError, zstandard.ZstdError, brotli.error)
"""Exceptions of the compressors: out of memory, or an unreadable text."""

COMPRESSORS: tuple[Compressor, ...] = (
    Compressor(
        "xz -9e",
        lambda size: lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME),
        lzma.decompress,
    ),
    Compressor(
        "zstd -19",
        lambda size: zstandard.ZstdCompressor(level=19).compressobj(size=size),
        lambda archive: zstandard.ZstdDecompressor().decompress(archive),
    ),
    Compressor("brotli 11", lambda size: _Brotli(), brotli.decompress),
    Compressor("bzip2 -9", lambda size: bz2.BZ2Compressor(9), bz2.decompress),
)


def measure(text: bytes, compressors: Sequence[Compressor] = COMPRESSORS) -> Iterator[Baseline]:
    """Compress a text with one compressor after the other, so that their times are comparable.

    Args:
      text: the text, such as concatenated validation documents.
      compressors: by default xz, zstd, brotli and bzip2.

    Yields:
      Each compressor's result as soon as it is known.

    Raises:
      UserError: the text is empty, so that bits per byte are undefined.
    """
    return measure_parts(lambda: [text], len(text), compressors)


def measure_parts(
    parts: Callable[[], Iterable[bytes]],
    size: int,
    compressors: Sequence[Compressor] = COMPRESSORS,
) -> Iterator[Baseline]:
    """Like `measure`, for a streamed text of any length.

    Args:
      parts: yields the text from the start, part by part; called once per compressor.
      size: total bytes.
      compressors: by default xz, zstd, brotli and bzip2.

    Yields:
      Each compressor's result as soon as it is known; seconds exclude reading the text.

    Raises:
      UserError: the text is empty.
    """
    if not size:
        raise UserError("validation text", "is empty", "compare on at least one byte")
    for compressor in compressors:
        stream, written, seconds = compressor.start(size), 0, 0.0
        for part in parts():
            start = time.perf_counter()
            written += len(stream.compress(part))
            seconds += time.perf_counter() - start
        start = time.perf_counter()
        written += len(stream.flush())
        yield Baseline(compressor.name, written, size, seconds + time.perf_counter() - start)


def comparison_table(
    bits_per_byte: float, validation: bytes | Sequence[Baseline], name: str = "llmjax"
) -> Table:
    """Compare the model with the classical compressors on one text, best first, for a terminal.

    Args:
      bits_per_byte: of the model: nats / (ln 2 x UTF-8 bytes of the text).
      validation: the text, which is then compressed, or results measured on it before.
      name: name of the model.

    Returns:
      A rich table with bits per byte, compressed size, and size relative to xz. The model's size
      is its code length, weights not counted.

    Raises:
      UserError: the text is empty.
    """
    baselines = list(measure(validation)) if isinstance(validation, bytes) else list(validation)
    size = baselines[0].original_bytes
    reference = baselines[0]
    rows = [(name, bits_per_byte, bits_per_byte * size / 8, True)]
    rows += [(b.name, b.bits_per_byte, float(b.compressed_bytes), False) for b in baselines]
    table = Table(
        title=f"Validation set, {size:,} bytes",
        title_justify="left",
        caption=f"{name}: code length, weights not counted",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("")
    for heading in ("bits per byte", "bytes", f"against {reference.name}"):
        table.add_column(heading, justify="right")
    for label, bits, length, is_model in sorted(rows, key=lambda row: row[1]):
        share = bits / reference.bits_per_byte - 1
        against = "" if label == reference.name else f"{share:+.1%}".replace("-", "\N{MINUS SIGN}")
        style = "bold" if is_model else ""
        cells = (label, f"{bits:.4f}", f"{length:,.0f}", against)
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table
