"""What tokens cost: by position in the window, and one by one for the beginning of the input."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from llmjax.compression.stream import Coded
from llmjax.data.tokenizers.tokenizer import TextDecoder, Tokenizer

PASSAGE = 2000
"""Tokens whose costs are kept one by one, where that is asked for."""

PARTS = 4
"""Ranges of positions in each octave."""


class Sum(NamedTuple):
    """What the tokens at some positions came to."""

    bits: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def plus(self, other: "Sum") -> "Sum":
        """Both together."""
        bits, tokens, size = (a + b for a, b in zip(self, other, strict=True))
        return Sum(bits, int(tokens), int(size))


class Piece(NamedTuple):
    """Text of the passage: one token, or as many as complete a character.

    Attributes:
      text: what it says.
      bits: what that cost.
      anew: whether it begins a lane, and thus is told without context.
    """

    text: str
    bits: float
    anew: bool


@dataclass
class Costs:
    """What tokens cost, added up as frames are coded.

    Attributes:
      tokenizer: the model's.
      wanted: how many tokens are kept one by one.
      tokens: coded by the model.
      bits: of all of them.
      sums: part of an octave -> sums: entry k is of the positions p with
        floor(PARTS log2(p + 1)) = k, p the tokens of its window that each is told from, less one.
      passage: the first tokens as text, one after the other; what is no text is left out.
    """

    tokenizer: Tokenizer
    wanted: int = 0
    tokens: int = 0
    bits: float = 0.0
    sums: dict[int, Sum] = field(default_factory=dict)
    passage: list[Piece] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sizes, self._kept = self.tokenizer.token_bytes(), 0

    def add(self, coded: Coded, tokens: np.ndarray, kept: bool) -> None:
        """Counts a frame.

        Args:
          coded: from `encode_tokens`.
          tokens: int32 [n], what was coded.
          kept: whether it is the model's in the archive.
        """
        if kept:
            self.tokens += len(coded.bits)
            self.bits += float(coded.bits.sum())
        part = np.floor(PARTS * np.log2(coded.positions + 1)).astype(np.int32)
        counts = np.bincount(part)
        bits = np.bincount(part, weights=coded.bits)
        sizes = np.bincount(part, weights=self._sizes[tokens])
        for k in np.flatnonzero(counts).tolist():
            new = Sum(float(bits[k]), int(counts[k]), round(sizes[k]))
            self.sums[k] = self.sums.get(k, Sum()).plus(new)
        if self._kept < self.wanted:
            self._keep(coded, tokens)

    def octaves(self) -> dict[int, Sum]:
        """Sums by octave: entry k is of the positions from 2^k - 1 to 2^(k + 1) - 2."""
        found: dict[int, Sum] = {}
        for k, one in self.sums.items():
            found[k // PARTS] = found.get(k // PARTS, Sum()).plus(one)
        return dict(sorted(found.items()))

    def _keep(self, coded: Coded, tokens: np.ndarray) -> None:
        decoder, bits, anew = TextDecoder(self.tokenizer), 0.0, False
        some = slice(0, self.wanted - self._kept)
        for token, cost, place in zip(
            tokens[some].tolist(), coded.bits[some].tolist(), coded.positions[some], strict=True
        ):
            text, bits, anew = decoder.push(token), bits + cost, anew or place == 0
            if text:
                self.passage.append(Piece(text, bits, bool(anew)))
                bits, anew = 0.0, False
        if rest := decoder.flush():
            self.passage.append(Piece(rest, bits, bool(anew)))
        self._kept += len(tokens[some])
