"""Text from a tokenizer.json's decoder as its tokens come."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import takewhile

from llmjax.data.tokenizers.huggingface.decoding import PieceDecoder

CONTEXT = 32
"""Tokens before a text that is the rest of another; no published decoder looks back as far."""
NEUTRAL = "x"
"""The piece that stands before a text where it is not known what does."""


class HuggingFaceStream:
    """One text, or the rest of one; see TextStream."""

    def __init__(
        self,
        decoder: PieceDecoder,
        piece: Callable[[int], str | None],
        after: Sequence[int] | None,
        refusal: AbstractContextManager[None],
        *,
        leading_space: bool,
    ):
        """Args:
        decoder: of the pieces.
        piece: the piece of a token; None for those that stand for no text.
        after: the tokens before, whose text is not given; () where there are some but it is not
          known which; None for a text of its own.
        refusal: turns what the library raises into a UserError.
        leading_space: a text of its own begins with a space that is not part of it.
        """
        self._piece, self._refusal = piece, refusal
        self._stream, self._given = decoder.stream(), ""
        before = [] if after is None else _pieces(after, piece)
        if after is not None and not after:
            before = [NEUTRAL]
        self._spaced = leading_space and not before
        if before:
            with refusal:
                self._given = decoder.text(before)
                for one in before:
                    self._beyond(self._stream.push(one))

    def push(self, token: int) -> str:
        piece = self._piece(token)
        if piece is None:
            return ""
        with self._refusal:
            return self._beyond(self._stream.push(piece))

    def flush(self) -> str:
        with self._refusal:
            return self._beyond(self._stream.finish())

    def _beyond(self, text: str) -> str:
        """The part of the text that has not been given."""
        if self._spaced and text:
            self._spaced, text = False, text.removeprefix(" ")
        if not self._given:
            return text
        pairs = zip(text, self._given, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        # Where the end of the text before reads otherwise now that it goes on, only the new counts.
        self._given = self._given[same:] if same == len(text) else ""
        return text[same:]


def _pieces(ids: Sequence[int], piece: Callable[[int], str | None]) -> list[str]:
    """The last pieces of these tokens."""
    found = (piece(int(token)) for token in ids[-2 * CONTEXT :])
    return [one for one in found if one is not None][-CONTEXT:]
