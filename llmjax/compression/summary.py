"""What a compression came to, beside the classical compressors."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llmjax.compression.costs import Costs
from llmjax.compression.sources import Source
from llmjax.compression.visible import visible
from llmjax.errors import UserError
from llmjax.evaluation.baselines import COMPRESSORS, FAILURES, Baseline, measure_parts

SLOW = {"brotli 11": 16 << 20}
"""Bytes of input above which a compressor is left out: it would take minutes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compared:
    """The classical compressors on the same bytes.

    Attributes:
      baselines: their figures; empty where there are no bytes, or they could not be read again.
      left_out: name -> bytes above which this compressor is not run.
    """

    baselines: Sequence[Baseline] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


def compare_with(source: Source) -> Compared:
    """Runs the classical compressors; where that fails there is a warning, as the archive is done.

    Bytes are fed part by part, so that memory does not grow with them.
    """
    left_out = {name: most for name, most in SLOW.items() if source.size > most}
    wanted = [one for one in COMPRESSORS if one.name not in left_out]
    if not source.size:
        return Compared()
    try:
        parts = partial(source.blocks, 1 << 20)
        return Compared(list(measure_parts(parts, source.size, wanted)), left_out)
    except (UserError, *FAILURES) as error:
        logger.warning("not compared with xz and others: %s", error or type(error).__name__)
        return Compared()


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
      not_compared: name -> bytes above which this compressor is not run.
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
    not_compared: Mapping[str, int] = field(repr=False, default_factory=dict)

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
            "not_compared": dict(self.not_compared),
        }

    def __str__(self) -> str:
        rows = [("llmjax", self.archive_bytes)]
        rows += [(one.name, one.compressed_bytes) for one in self.baselines]
        lines = [f"{visible(self.source)}: {self.bytes:,} bytes", ""]
        lines += [f"  {'':12}{'bytes':>12}{'of input':>10}{'bits per byte':>15}"]
        for name, size in sorted(rows, key=lambda row: row[1]):
            share = size / self.bytes if self.bytes else math.nan
            lines += [f"  {name:12}{size:12,}{_or_none(share, '.2%'):>10}"]
            lines[-1] += f"{_or_none(8 * share, '.3f'):>15}"
        lines += [
            f"  not compared: {name}, larger than {most >> 20} MiB"
            for name, most in self.not_compared.items()
        ]
        with_start, alone = self.kilobytes_per_second
        ratio = _or_none(self.adjusted_ratio, ".1%")
        lines += [
            "",
            f"  and the model's {self.model_bytes:,} bytes: {ratio} of input",
            f"  {self.seconds:.1f} s, {with_start:.2f} KB/s ({alone:.2f} without compiling); "
            f"{self.lanes} lanes, windows of {self.context} tokens",
            "  verified in a process of its own"
            if self.verify_seconds is not None
            else "  not verified",
        ]
        return "\n".join(lines)


def _or_none(value: float, form: str) -> str:
    """The number; n/a of an empty input, which has none."""
    return "n/a" if math.isnan(value) else format(value, form)
