"""What a compression came to, beside the classical compressors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmjax.baselines import Baseline, measure
from llmjax.compress.costs import Costs
from llmjax.compress.members import Source

COMPARED = 16 << 20
"""Bytes of input up to which the classical compressors are run on all of it at once."""


def compared(source: Source) -> Iterator[Baseline]:
    """The classical compressors on the same bytes; nothing where there are none, or too many."""
    if 0 < source.size <= COMPARED:
        if source.file is not None:
            source.file.seek(0)
        yield from measure(b"".join(source.blocks(1 << 20)))


@dataclass(frozen=True)
class Compression:
    """A finished archive; print it for a table.

    Attributes:
      source: what was compressed.
      bytes: of it.
      archive_bytes: of the archive, header and checksums included.
      header_bytes: of these, before the first frame.
      model_bytes: of the parameters, as they are held.
      seconds: wall-clock time of coding, compiling included, verifying not.
      compile_seconds: of it, until the first token was coded.
      verify_seconds: of decoding once more in another process; None where that was left out.
      lanes, context, stride: see `compress`.
      costs: what tokens cost.
      baselines: the classical compressors on the same bytes.
    """

    source: str
    bytes: int
    archive_bytes: int
    header_bytes: int
    model_bytes: int
    seconds: float
    compile_seconds: float
    verify_seconds: float | None
    lanes: int
    context: int
    stride: int
    costs: Costs = field(repr=False)
    baselines: Sequence[Baseline] = field(repr=False)

    @property
    def bits_per_byte(self) -> float:
        """8 x archive bytes / input bytes; NaN for an empty input."""
        return 8 * self.archive_bytes / self.bytes if self.bytes else math.nan

    @property
    def adjusted_ratio(self) -> float:
        """(archive + parameters) / input bytes: what a receiver without the model would need."""
        return (self.archive_bytes + self.model_bytes) / self.bytes if self.bytes else math.nan

    @property
    def kilobytes_per_second(self) -> tuple[float, float]:
        """Thousands of input bytes a second, compiling included and excluded."""
        alone = self.seconds - self.compile_seconds
        return self.bytes / 1e3 / self.seconds, self.bytes / 1e3 / max(alone, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data, for JSON."""
        return {
            "source": self.source,
            "bytes": self.bytes,
            "archive_bytes": self.archive_bytes,
            "header_bytes": self.header_bytes,
            "bits_per_byte": self.bits_per_byte,
            "ratio": self.archive_bytes / self.bytes if self.bytes else math.nan,
            "adjusted_ratio": self.adjusted_ratio,
            "model_bytes": self.model_bytes,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "verify_seconds": self.verify_seconds,
            "kilobytes_per_second": self.kilobytes_per_second[0],
            "kilobytes_per_second_compiled": self.kilobytes_per_second[1],
            "lanes": self.lanes,
            "context": self.context,
            "stride": self.stride,
            "tokens": self.costs.tokens,
            "bits_per_token_at": [
                [2**k - 1, one.bits / one.tokens] for k, one in self.costs.octaves().items()
            ],
            "baselines": {one.name: one.compressed_bytes for one in self.baselines},
        }

    def __str__(self) -> str:
        rows = [("llmjax", self.archive_bytes)]
        rows += [(one.name, one.compressed_bytes) for one in self.baselines]
        lines = [f"{self.source}: {self.bytes:,} bytes", ""]
        lines += [f"  {'':12}{'bytes':>12}{'of input':>10}{'bits per byte':>15}"]
        for name, size in sorted(rows, key=lambda row: row[1]):
            share = size / self.bytes if self.bytes else math.nan
            lines += [f"  {name:12}{size:12,}{share:10.2%}{8 * share:15.3f}"]
        with_start, alone = self.kilobytes_per_second
        lines += [
            "",
            f"  and the model's {self.model_bytes:,} bytes: {self.adjusted_ratio:.1%} of input",
            f"  {self.seconds:.1f} s, {with_start:.2f} KB/s ({alone:.2f} without compiling); "
            f"{self.lanes} lanes, windows of {self.context} tokens",
            "  verified in a process of its own"
            if self.verify_seconds is not None
            else "  not verified",
        ]
        return "\n".join(lines)
