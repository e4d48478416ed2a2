"""Sums over scored text, and the figures that follow from them."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from llmjax.data.text.corpus import Document
from llmjax.scoring.totals import ByDocument, Totals
from llmjax.scoring.windows import Window


@dataclass(frozen=True)
class Score(Totals):
    """Sums over documents, all of whose tokens are told, end-of-text tokens included.

    Attributes:
      stride: tokens from one window to the next.
      nats_at: float64 [context]; nats of the tokens that were predicted from 1, 2, ... inputs.
      tokens_at: int64 [context]; their number.
      bytes_at: int64 [context]; the bytes of text that they stand for.
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

    def words(self) -> dict[str, str]:
        return {
            "bits per byte": f"{self.bits_per_byte:.4f}",
            "tokens": f"{self.tokens:,}, end-of-text tokens included",
            "windows": f"{self.context} tokens, each {self.stride} after the one before",
        }


class Sums:
    """A score in the making: float64 sums of nats, whole numbers of tokens and bytes."""

    def __init__(self, context: int, token_bytes: np.ndarray):
        self._sizes: list[tuple[int, int]] = []  # tokens and bytes of each document
        self._windows: list[tuple[int, float]] = []  # targets and nats of each window, in order
        self._token_bytes = token_bytes.astype(np.int64)
        self._nats = np.zeros(context, np.float64)
        self._tokens = np.zeros(context, np.int64)
        self._bytes = np.zeros(context, np.int64)

    def read(self, pieces: Iterable[Document]) -> Iterator[np.ndarray]:
        """Hands on the tokens of one document, and counts its bytes."""
        number, tokens, size = len(self._sizes), 0, 0
        self._sizes.append((0, 0))
        for piece in pieces:
            tokens, size = tokens + len(piece.tokens), size + int(piece.bytes)
            self._sizes[number] = tokens, size
            yield piece.tokens

    def add(self, window: Window, nats: np.ndarray) -> None:
        """Adds the nats of the targets that the window counts."""
        at = slice(window.skip, window.skip + len(nats))
        self._nats[at] += nats
        self._tokens[at] += 1
        self._bytes[at] += self._token_bytes[window.counted]
        self._windows.append((len(nats), math.fsum(nats)))

    @property
    def bytes(self) -> int:
        """Of all documents so far."""
        return sum(size for _, size in self._sizes)

    def score(self, context: int, stride: int) -> Score:
        """The sums so far."""
        return Score(
            nats=math.fsum(self._nats),
            tokens=int(self._tokens.sum()),
            bytes=self.bytes,
            documents=len(self._sizes),
            context=context,
            each=self._each(),
            stride=stride,
            nats_at=self._nats,
            tokens_at=self._tokens,
            bytes_at=self._bytes,
        )

    def _each(self) -> ByDocument:
        """The sums of each document: windows come in order, and none is of two documents."""
        tokens, sizes = np.array(self._sizes, np.int64).reshape(-1, 2).T
        counts, nats = np.array(self._windows, np.float64).reshape(-1, 2).T
        owners = np.searchsorted(np.cumsum(tokens), np.cumsum(counts), side="left")
        return ByDocument(np.bincount(owners, nats, len(tokens)), tokens, sizes)


@dataclass(frozen=True)
class TextScore:
    """One text, token by token; its last token is the end-of-text token.

    Attributes:
      tokens: int32 [n].
      nats: float64 [n], what each token cost given those before it.
      bytes: int32 [n], UTF-8 bytes of text that each token stands for.
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
        """e to the loss per token."""
        return self.total.perplexity

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the text."""
        return self.total.bits_per_byte
