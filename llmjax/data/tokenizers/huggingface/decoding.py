"""Pieces to text by the decoder that a tokenizer.json states, at once or as the pieces come."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import takewhile
from typing import Any

from llmjax.data.tokenizers.huggingface.file import steps_of
from llmjax.data.tokenizers.huggingface.library import library_decoder
from llmjax.data.tokenizers.huggingface.stages import (
    BYTE_PIECE,
    REPLACEMENT,
    Stage,
    byte_level_table,
    stages_of,
)

CONTEXT = 32
"""Tokens before a text that is the rest of another; no published decoder looks back as far."""
NEUTRAL = "x"
"""The piece taken to precede a text where the real one is unknown."""


class PieceDecoder:
    """The decoder of a tokenizer.json."""

    def __init__(self, spec: Mapping[str, Any] | None):
        """`spec`: the entry "decoder"; None joins pieces with spaces, as the library does."""
        self._steps = tuple(steps_of(spec))
        self._decoder = None if spec is None else library_decoder(self._steps)

    @property
    def is_byte_level(self) -> bool:
        """Whether each piece stands for bytes, and the text is all of them."""
        return [step["type"] for step in self._steps] == ["ByteLevel"]

    def text(self, pieces: list[str]) -> str:
        """The text of all pieces of a text."""
        if self._decoder is None:
            return " ".join(pieces)
        text: str = self._decoder.decode(pieces)
        return text

    def stream(self) -> "PieceStream":
        """For the pieces of one text, one after the other."""
        return PieceStream(stages_of(None if self._decoder is None else self._steps))

    def piece_to_bytes(self) -> Callable[[str], bytes]:
        """What a piece adds in the midst of a text; part of a character as its bytes."""
        kinds = {step["type"] for step in self._steps}
        table = byte_level_table()
        usual, unlike = _between(self, "x"), _between(self, "y")

        def added(piece: str) -> bytes:
            # Of equal pieces in a row, a step may leave out all but one.
            text = unlike(piece) if piece in ("x", "xx") else usual(piece)
            if REPLACEMENT in text and REPLACEMENT not in piece:
                if "ByteFallback" in kinds and len(piece) == BYTE_PIECE and piece[:3] == "<0x":
                    return bytes([int(piece[3:5], 16)])
                if "ByteLevel" in kinds:
                    return b"".join(table.get(letter, b"") for letter in piece)
            return text.encode()

        return added


def _between(decoder: PieceDecoder, letter: str) -> Callable[[str], str]:
    """What a text has more of with a piece between a letter and two more of it."""
    before, behind = letter, letter + letter
    head = decoder.text([before])
    tail = decoder.text([before, behind]).removeprefix(head)

    def added(piece: str) -> str:
        text = decoder.text([before, piece, behind])
        return text.removeprefix(head).removesuffix(tail)

    return added


class PieceStream:
    """One text as its pieces come."""

    def __init__(self, stages: Sequence[Stage]):
        self._stages = stages

    def push(self, piece: str) -> str:
        """The text that is sure now."""
        return "".join(self._through(0, [piece]))

    def finish(self) -> str:
        """The rest of the text."""
        return "".join(self._finished())

    def _through(self, first: int, pieces: Iterable[str]) -> Iterable[str]:
        for stage in self._stages[first:]:
            pieces = [out for piece in pieces for out in stage.push(piece)]
        return pieces

    def _finished(self) -> Iterator[str]:
        for number, stage in enumerate(self._stages):
            yield from self._through(number + 1, list(stage.finish()))


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
          known which; None at the start of a text.
        refusal: turns what the library raises into a UserError.
        leading_space: a text begins with a space that is not part of it.
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
                for previous in before:
                    self._beyond(self._stream.push(previous))

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
    pieces = (piece(int(token)) for token in ids[-2 * CONTEXT :])
    return [text for text in pieces if text is not None][-CONTEXT:]
