"""What a model expects around a text, or around a pair of them: special tokens, segment types."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FIRST, SECOND = -1, -2  # where the texts go

Part = tuple[int, int]  # a token (or FIRST or SECOND) and its segment type


@dataclass(frozen=True)
class Frame:
    """Special tokens around texts.

    Attributes:
      single: of one text: special tokens and FIRST, in order, each with its type.
      pair: of two texts: special tokens, FIRST and SECOND.
    """

    single: tuple[Part, ...] = ((FIRST, 0),)
    pair: tuple[Part, ...] = ((FIRST, 0), (SECOND, 1))

    @classmethod
    def starting(cls, bos_id: int) -> "Frame":
        """BOS before each text."""
        before = (bos_id, 0)
        return cls((before, (FIRST, 0)), (before, (FIRST, 0), (bos_id, 1), (SECOND, 1)))

    @property
    def prefix(self) -> tuple[int, ...]:
        """Tokens before a single text."""
        return tuple(token for token, _ in self.single[: self._middle])

    @property
    def suffix(self) -> tuple[int, ...]:
        """Tokens behind a single text."""
        return tuple(token for token, _ in self.single[self._middle + 1 :])

    def wrap(
        self, ids: Sequence[int], pair: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """The tokens that a model reads of a text, or of two, and their types."""
        rows = list(self._parts(ids, pair))
        tokens = [token for part, _ in rows for token in part]
        return tokens, [kind for part, kind in rows for _ in part]

    @property
    def _middle(self) -> int:
        return [token for token, _ in self.single].index(FIRST)

    def _parts(
        self, ids: Sequence[int], pair: Sequence[int] | None
    ) -> Iterator[tuple[Sequence[int], int]]:
        for token, kind in self.single if pair is None else self.pair:
            if token == FIRST:
                yield ids, kind
            elif token == SECOND:
                yield pair or (), kind
            else:
                yield (token,), kind
