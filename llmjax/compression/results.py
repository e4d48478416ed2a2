"""The result of a compression: sizes, times, cost of tokens, classical compressors.

RUN/compression.json stores it for the report: the numbers of `CompressionResult.to_dict`, and

    step, time    the checkpoint; time of compression, in Unix seconds
    compared      name, compressed_bytes, original_bytes, seconds of each classical compressor
    at            [first position, bits, tokens, bytes] of each range of positions in the window
    passage       [text, bits, whether a stream starts with it] of the first tokens; empty unless
                  requested
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from llmjax.compression.inputs import Input
from llmjax.compression.streams import EncodedTokens
from llmjax.data.tokenizers.tokenizer import TextDecoder, Tokenizer
from llmjax.errors import UserError, printable
from llmjax.evaluation.baselines import COMPRESSORS, FAILURES, Baseline, Compressor, measure_parts
from llmjax.run.folder import Run

PASSAGE_TOKENS = 2000
"""Tokens whose costs are stored individually, if requested."""

RANGES_PER_OCTAVE = 4
"""Ranges of positions per octave."""

SLOW = {"brotli 11": 16 << 20}
"""Compressor -> bytes of input above which it is skipped, as it would take minutes."""

logger = logging.getLogger(__name__)


class CostSum(NamedTuple):
    """The total of the tokens at some positions."""

    bits: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def plus(self, other: "CostSum") -> "CostSum":
        """Returns the sum of both."""
        bits, tokens, size = (a + b for a, b in zip(self, other, strict=True))
        return CostSum(bits, int(tokens), int(size))


class TextCost(NamedTuple):
    """A piece of the passage: one token, or as many as form a complete character.

    Attributes:
      text: the text of the tokens.
      bits: their cost.
      starts_stream: whether a stream starts here, predicted without context.
    """

    text: str
    bits: float
    starts_stream: bool


@dataclass
class TokenCosts:
    """The cost of tokens, accumulated over frames.

    Attributes:
      tokenizer: the model's tokenizer.
      passage_tokens: number of tokens whose costs are stored individually.
      tokens: number of tokens encoded by the model.
      bits: their total cost.
      bytes: size of their text.
      sums: range -> total; range k has the positions p in the token's window with
        floor(RANGES_PER_OCTAVE log2(p + 1)) = k.
      passage: the first tokens as text, without raw bytes.
    """

    tokenizer: Tokenizer
    passage_tokens: int = 0
    tokens: int = 0
    bits: float = 0.0
    bytes: int = 0
    sums: dict[int, CostSum] = field(default_factory=dict)
    passage: list[TextCost] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sizes, self._passage_length = self.tokenizer.token_bytes(), 0

    def add(self, encoded: EncodedTokens, tokens: np.ndarray, used: bool) -> None:
        """Adds a frame.

        Args:
          encoded: from `encode_tokens`.
          tokens: int32 [n], the encoded tokens.
          used: whether the archive contains this encoding.
        """
        if used:
            self.tokens += len(encoded.bits)
            self.bits += float(encoded.bits.sum())
            self.bytes += int(self._sizes[tokens].sum())
        ranges = np.floor(RANGES_PER_OCTAVE * np.log2(encoded.positions + 1)).astype(np.int32)
        counts = np.bincount(ranges)
        bits = np.bincount(ranges, weights=encoded.bits)
        sizes = np.bincount(ranges, weights=self._sizes[tokens])
        for k in np.flatnonzero(counts).tolist():
            frame_sum = CostSum(float(bits[k]), int(counts[k]), round(sizes[k]))
            self.sums[k] = self.sums.get(k, CostSum()).plus(frame_sum)
        if self._passage_length < self.passage_tokens:
            self._extend_passage(encoded, tokens)

    def octaves(self) -> dict[int, CostSum]:
        """Returns sums by octave: entry k has the positions from 2^k - 1 to 2^(k + 1) - 2."""
        octaves: dict[int, CostSum] = {}
        for k, total in self.sums.items():
            octave = k // RANGES_PER_OCTAVE
            octaves[octave] = octaves.get(octave, CostSum()).plus(total)
        return dict(sorted(octaves.items()))

    def by_position(self) -> list[list[float]]:
        """Returns [first position, bits, tokens, bytes] of each range of positions."""
        return [[first_position(k), *total] for k, total in sorted(self.sums.items())]

    def _extend_passage(self, encoded: EncodedTokens, tokens: np.ndarray) -> None:
        decoder, bits, starts_stream = TextDecoder(self.tokenizer), 0.0, False
        part = slice(0, self.passage_tokens - self._passage_length)
        for token, cost, position in zip(
            tokens[part].tolist(),
            encoded.bits[part].tolist(),
            encoded.positions[part].tolist(),
            strict=True,
        ):
            text, bits = decoder.push(token), bits + cost
            starts_stream = starts_stream or position == 0
            if text:
                self.passage.append(TextCost(text, bits, starts_stream))
                bits, starts_stream = 0.0, False
        if rest := decoder.flush():
            self.passage.append(TextCost(rest, bits, starts_stream))
        self._passage_length += len(tokens[part])


def first_position(k: int) -> int:
    """Returns the first position of range k."""
    return math.ceil(2 ** (k / RANGES_PER_OCTAVE)) - 1


@dataclass(frozen=True)
class CompressorComparison:
    """Results of the classical compressors on the same bytes.

    Attributes:
      baselines: their sizes; empty if the input is empty or could not be read again.
      skipped: name -> bytes above which this compressor is skipped.
    """

    baselines: Sequence[Baseline] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


def compare_compressors(
    source: Input, compressors: Sequence[Compressor] | None = None
) -> CompressorComparison:
    """Runs the classical compressors; a failure is only a warning, as the archive is complete.

    Reads the input in blocks, so memory does not grow with it.

    Args:
      source: the input.
      compressors: the compressors; None: xz, zstd, brotli and bzip2.
    """
    compressors = COMPRESSORS if compressors is None else compressors
    skipped = {name: limit for name, limit in SLOW.items() if source.size > limit}
    fast = [compressor for compressor in compressors if compressor.name not in skipped]
    if not source.size:
        return CompressorComparison()
    try:
        parts = partial(source.blocks, 1 << 20)
        return CompressorComparison(list(measure_parts(parts, source.size, fast)), skipped)
    except (UserError, *FAILURES) as error:
        logger.warning("not compared with xz and others: %s", error or type(error).__name__)
        return CompressorComparison()


@dataclass(frozen=True)
class CompressionResult:
    """The result of compressing an input; prints as a table.

    Attributes:
      source: the input.
      bytes: size of the input.
      archive_bytes: size of the archive, including header and checksums.
      header_bytes: size of the archive before the first frame.
      model_bytes: size of the parameters, in the dtype used.
      seconds: wall-clock time of encoding, including compilation, excluding verification.
      compile_seconds: part of `seconds` before the first token was encoded.
      verify_seconds: time of decoding in a second process; None if skipped.
      streams, context, stride: see `compress`.
      costs: the cost of tokens.
      baselines: the classical compressors on the same bytes.
      not_compared: name -> bytes above which this compressor is skipped.
    """

    source: str
    bytes: int
    archive_bytes: int
    header_bytes: int
    model_bytes: int
    seconds: float
    compile_seconds: float
    verify_seconds: float | None
    streams: int
    context: int
    stride: int
    costs: TokenCosts = field(repr=False)
    baselines: Sequence[Baseline] = field(repr=False)
    not_compared: Mapping[str, int] = field(repr=False, default_factory=dict)

    @property
    def ratio(self) -> float:
        """Archive bytes / input bytes; NaN for empty input."""
        return self.archive_bytes / self.bytes if self.bytes else math.nan

    @property
    def bits_per_byte(self) -> float:
        """8 x archive bytes / input bytes; NaN for empty input."""
        return 8 * self.ratio

    @property
    def adjusted_ratio(self) -> float:
        """(archive + parameter bytes) / input bytes: what a receiver without the model needs."""
        return (self.archive_bytes + self.model_bytes) / self.bytes if self.bytes else math.nan

    @property
    def kilobytes_per_second(self) -> tuple[float, float]:
        """Thousands of input bytes per second, with and without compilation."""
        coding = self.seconds - self.compile_seconds
        return self.bytes / 1e3 / self.seconds, self.bytes / 1e3 / max(coding, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers as plain data, for JSON."""
        names = ["source", "bytes", "archive_bytes", "header_bytes", "bits_per_byte", "ratio"]
        names += ["adjusted_ratio", "model_bytes", "seconds", "compile_seconds", "verify_seconds"]
        speeds = self.kilobytes_per_second
        return {
            **{name: getattr(self, name) for name in names},
            "kilobytes_per_second": speeds[0],
            "kilobytes_per_second_compiled": speeds[1],
            **{name: getattr(self, name) for name in ("streams", "context", "stride")},
            "tokens": self.costs.tokens,
            "bits_per_token_at": [
                [2**k - 1, total.bits / total.tokens] for k, total in self.costs.octaves().items()
            ],
            "baselines": {baseline.name: baseline.compressed_bytes for baseline in self.baselines},
            "not_compared": dict(self.not_compared),
        }

    def __str__(self) -> str:
        rows = [("llmjax", self.archive_bytes)]
        rows += [(baseline.name, baseline.compressed_bytes) for baseline in self.baselines]
        lines = [f"{printable(self.source)}: {self.bytes:,} bytes", ""]
        lines += [f"  {'':12}{'bytes':>12}{'of input':>10}{'bits per byte':>15}"]
        for name, size in sorted(rows, key=lambda row: row[1]):
            share = size / self.bytes if self.bytes else math.nan
            lines += [f"  {name:12}{size:12,}{_or_na(share, '.2%'):>10}"]
            lines[-1] += f"{_or_na(8 * share, '.3f'):>15}"
        lines += [
            f"  not compared: {name}, larger than {limit >> 20} MiB"
            for name, limit in self.not_compared.items()
        ]
        total, coding = self.kilobytes_per_second
        verified = self.verify_seconds is not None
        return "\n".join(
            [
                *lines,
                "",
                *(f"  {line}" for line in self._share_of_model()),
                f"  the model itself, which a receiver needs too: {self._model_size()}",
                f"  {self.seconds:.1f} s, {total:.2f} KB/s ({coding:.2f} without compiling); "
                f"{self.streams} parallel streams, windows of {self.context} tokens",
                "  verified in a separate process" if verified else "  not verified",
            ]
        )

    def _share_of_model(self) -> list[str]:
        """Says how much of the input the model encoded, if not all of it."""
        share = self.costs.bytes / self.bytes if self.bytes else 1.0
        if share >= 0.9995:
            return []
        if self.costs.tokens:
            return [f"{share:.1%} of the input encoded by the model; zstd made the rest smaller"]
        return [
            "THE MODEL WAS NOT USED: zstd makes every piece of this input smaller. The model suits",
            "text like that it was trained on; --no-fallback shows what it makes of this input.",
        ]

    def _model_size(self) -> str:
        text = f"{self.model_bytes:,} bytes"
        if self.adjusted_ratio < 10:
            text += f" (together {self.adjusted_ratio:.1%} of the input)"
        return text


def _or_na(value: float, form: str) -> str:
    """Formats a number; n/a for NaN, as of an empty input."""
    return "n/a" if math.isnan(value) else format(value, form)


def save_result(run: Run, step: int, result: CompressionResult) -> None:
    """Writes RUN/compression.json, unless the run folder is read-only."""
    document = {
        **{name: _finite(value) for name, value in result.to_dict().items()},
        "step": step,
        "time": time.time(),
        "compared": [asdict(baseline) for baseline in result.baselines],
        "at": result.costs.by_position(),
        "passage": [list(piece) for piece in result.costs.passage],
    }
    with contextlib.suppress(OSError):
        run.keep(run.compression, json.dumps(document) + "\n")


def _finite(value: Any) -> Any:
    """Replaces a number that is not finite by None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
