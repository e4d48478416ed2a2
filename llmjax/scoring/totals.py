"""Sums over scored text, and the metrics derived from them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from llmjax.data.text.corpus import Document
from llmjax.metrics.texts import language
from llmjax.scoring.windows import Window


class DocumentTotals(NamedTuple):
    """The sums of each of D documents, for bootstrap intervals.

    Attributes:
      nats: float64 [D].
      tokens: [D].
      bytes: int64 [D].
      correct: [D], number of targets predicted correctly; None if not counted.
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    correct: np.ndarray | None = None


@dataclass(frozen=True)
class Totals(ABC):
    """Sums over targets.

    Attributes:
      nats: negative log-likelihood of all targets.
      tokens: number of targets.
      bytes: UTF-8 bytes of the documents' original text.
      documents: number of documents.
      context: tokens per window.
      per_document: the sums of each document.
    """

    nats: float
    tokens: int
    bytes: int
    documents: int
    context: int
    per_document: DocumentTotals = field(repr=False, compare=False)

    @property
    def loss_per_token(self) -> float:
        """Nats per target."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss per target); infinite on overflow."""
        return math.exp(self.loss_per_token) if self.loss_per_token < 709 else math.inf

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return 95 % intervals (low, high) of loss, perplexity and the metrics of `quality`, by
        bootstrap resampling of documents; empty for a single document."""
        if self.documents < 2:
            return {}
        has_bits = self.quality()["bits_per_byte"] is not None
        nats, tokens, num_bytes, correct = self.per_document
        result = language(nats, tokens, correct, num_bytes if has_bits else None)
        return {metric.name: (metric.low, metric.high) for metric in result.metrics}

    @abstractmethod
    def quality(self) -> dict[str, float | None]:
        """Return the metrics besides the loss: bits per byte; where most of the text is visible,
        None instead, and accuracy."""

    @abstractmethod
    def summary(self) -> dict[str, str]:
        """Return lines for display: the headline metric, the targets, the windows."""

    @property
    def larger_is_better(self) -> dict[str, bool]:
        """Of each metric of `quality`."""
        return {name: name == "accuracy" for name in self.quality()}


@dataclass(frozen=True)
class Score(Totals):
    """Sums over all tokens of documents, end-of-text tokens included.

    Attributes:
      stride: of the sliding window.
      nats_at: float64 [context]; nats of the tokens predicted from 1, 2, ... inputs.
      tokens_at: int64 [context]; number of these tokens.
      bytes_at: int64 [context]; bytes of text of these tokens.
    """

    stride: int
    nats_at: np.ndarray = field(repr=False, compare=False)
    tokens_at: np.ndarray = field(repr=False, compare=False)
    bytes_at: np.ndarray = field(repr=False, compare=False)

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the original text."""
        return self.nats / (math.log(2) * self.bytes)

    def quality(self) -> dict[str, float | None]:
        return {"bits_per_byte": self.bits_per_byte}

    def summary(self) -> dict[str, str]:
        return {
            "bits per byte": f"{self.bits_per_byte:.4f}",
            "tokens": f"{self.tokens:,}, end-of-text tokens included",
            "windows": f"{self.context} tokens, sliding window, stride {self.stride}",
        }


class ScoreAccumulator:
    """Accumulates a score: float64 sums of nats, integer counts of tokens and bytes."""

    def __init__(self, context: int, token_bytes: np.ndarray):
        self._sizes: list[tuple[int, int]] = []  # tokens and bytes of each document
        self._windows: list[tuple[int, float]] = []  # targets and nats of each window, in order
        self._token_bytes = token_bytes.astype(np.int64)
        self._nats = np.zeros(context, np.float64)
        self._tokens = np.zeros(context, np.int64)
        self._bytes = np.zeros(context, np.int64)

    def read(self, pieces: Iterable[Document]) -> Iterator[np.ndarray]:
        """Yield the tokens of one document, and count its bytes."""
        number, tokens, size = len(self._sizes), 0, 0
        self._sizes.append((0, 0))
        for piece in pieces:
            tokens, size = tokens + len(piece.tokens), size + int(piece.bytes)
            self._sizes[number] = tokens, size
            yield piece.tokens

    def add(self, window: Window, nats: np.ndarray) -> None:
        """Add the nats of the targets that the window counts."""
        counted = slice(window.skip, window.skip + len(nats))
        self._nats[counted] += nats
        self._tokens[counted] += 1
        self._bytes[counted] += self._token_bytes[window.counted]
        self._windows.append((len(nats), math.fsum(nats)))

    @property
    def bytes(self) -> int:
        """Bytes of all documents so far."""
        return sum(size for _, size in self._sizes)

    def score(self, context: int, stride: int) -> Score:
        """Return the sums so far."""
        return Score(
            nats=math.fsum(self._nats),
            tokens=int(self._tokens.sum()),
            bytes=self.bytes,
            documents=len(self._sizes),
            context=context,
            per_document=self._per_document(),
            stride=stride,
            nats_at=self._nats,
            tokens_at=self._tokens,
            bytes_at=self._bytes,
        )

    def _per_document(self) -> DocumentTotals:
        """Sum per document: windows are in order, and none spans two documents."""
        tokens, sizes = np.array(self._sizes, np.int64).reshape(-1, 2).T
        counts, nats = np.array(self._windows, np.float64).reshape(-1, 2).T
        owners = np.searchsorted(np.cumsum(tokens), np.cumsum(counts), side="left")
        return DocumentTotals(np.bincount(owners, nats, len(tokens)), tokens, sizes)


@dataclass(frozen=True)
class TextScore:
    """The score of one text, token by token, end-of-text included.

    Attributes:
      tokens: int32 [n].
      nats: float64 [n], negative log-likelihood of each token given those before it.
      bytes: int32 [n], UTF-8 bytes of text of each token.
      total: the sums.
    """

    tokens: np.ndarray = field(repr=False)
    nats: np.ndarray = field(repr=False)
    bytes: np.ndarray = field(repr=False)
    total: Score

    @property
    def loss_per_token(self) -> float:
        """Nats per token."""
        return self.total.loss_per_token

    @property
    def perplexity(self) -> float:
        """exp(loss per token)."""
        return self.total.perplexity

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the text."""
        return self.total.bits_per_byte
