"""What classical compressors make of the same text: the bar a language model has to pass."""

import bz2
import lzma
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import brotli
import zstandard
from rich import box
from rich.table import Table
from rich.text import Text

from llmjax.errors import UserError


@dataclass(frozen=True)
class Compressor:
    """A general-purpose compressor at its strongest usual setting.

    Attributes:
      name: what one would type at a shell, such as "xz -9e".
      compress: the whole text in, the whole archive out.
      decompress: the way back.
    """

    name: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Baseline:
    """One compressor's figure on one text.

    Attributes:
      name: the compressor's name.
      compressed_bytes: length of the archive, headers and checksums included.
      original_bytes: length of the text.
      seconds: wall-clock time that compressing took, on one thread.
    """

    name: str
    compressed_bytes: int
    original_bytes: int
    seconds: float

    @property
    def bits_per_byte(self) -> float:
        """8 x compressed bytes / original bytes."""
        return 8 * self.compressed_bytes / self.original_bytes


COMPRESSORS: tuple[Compressor, ...] = (
    Compressor(
        "xz -9e",
        lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
        lzma.decompress,
    ),
    Compressor(
        "zstd -19",
        lambda text: zstandard.ZstdCompressor(level=19).compress(text),
        lambda archive: zstandard.ZstdDecompressor().decompress(archive),
    ),
    # The command-line tool's window (2^24 bytes), wider than the library's default.
    Compressor(
        "brotli 11", lambda text: brotli.compress(text, quality=11, lgwin=24), brotli.decompress
    ),
    Compressor("bzip2 -9", lambda text: bz2.compress(text, 9), bz2.decompress),
)


def measure(text: bytes, compressors: Sequence[Compressor] = COMPRESSORS) -> Iterator[Baseline]:
    """Compresses a text, one compressor after the other, so that their times are comparable.

    Args:
      text: what to compress, such as held-out documents one after the other.
      compressors: which; by default xz, zstd, brotli and bzip2.

    Yields:
      Each compressor's figure as soon as it is known.

    Raises:
      UserError: the text is empty, so that bits per byte have no meaning.
    """
    if not text:
        raise UserError("held-out text", "is empty", "compare on at least one byte")
    for compressor in compressors:
        start = time.perf_counter()
        size = len(compressor.compress(text))
        yield Baseline(compressor.name, size, len(text), time.perf_counter() - start)


def comparison_table(
    bits_per_byte: float, heldout: bytes | Sequence[Baseline], name: str = "llmjax"
) -> Table:
    """The model beside the classical compressors on one text, best first, for a terminal.

    Args:
      bits_per_byte: the model's figure: nats / (ln 2 x UTF-8 bytes of the text).
      heldout: the text itself, compressed on the spot, or figures measured on it before.
      name: what to call the model.

    Returns:
      A rich table with bits per byte, compressed size, and size relative to xz. The model's size
      is its code length, weights not counted.

    Raises:
      UserError: the text is empty.
    """
    baselines = list(measure(heldout)) if isinstance(heldout, bytes) else list(heldout)
    size = baselines[0].original_bytes
    reference = baselines[0]
    rows = [(name, bits_per_byte, bits_per_byte * size / 8, True)]
    rows += [(b.name, b.bits_per_byte, float(b.compressed_bytes), False) for b in baselines]
    table = Table(
        title=f"Held-out text, {size:,} bytes",
        title_justify="left",
        caption=f"{name}: code length, weights not counted",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("")
    for heading in ("bits per byte", "bytes", f"against {reference.name}"):
        table.add_column(heading, justify="right")
    for label, bits, length, ours in sorted(rows, key=lambda row: row[1]):
        share = bits / reference.bits_per_byte - 1
        against = "" if label == reference.name else f"{share:+.1%}".replace("-", "\N{MINUS SIGN}")
        style = "bold" if ours else ""
        cells = (label, f"{bits:.4f}", f"{length:,.0f}", against)
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table
