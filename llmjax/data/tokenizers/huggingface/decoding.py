"""Decodes pieces by the decoder of a tokenizer.json, all at once or incrementally."""

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
"""Preceding tokens that are taken into account; no published decoder looks back as far."""
NEUTRAL = "x"
"""Stands for unknown preceding pieces."""


class PieceDecoder:
    """The decoder of a tokenizer.json."""

    def __init__(self, spec: Mapping[str, Any] | None):
        """`spec` is the entry "decoder"; None joins pieces with spaces, as the library does."""
        self._steps = tuple(steps_of(spec))
        self._decoder = None if spec is None else library_decoder(self._steps)

    @property
    def is_byte_level(self) -> bool:
        """Whether each piece stands for bytes, whose concatenation is the text."""
        return [step["type"] for step in self._steps] == ["ByteLevel"]

    def text(self, pieces: list[str]) -> str:
        """Decodes all pieces of a text."""
        if self._decoder is None:
            return " ".join(pieces)
        text: str = self._decoder.decode(pieces)
        return text

    def stream(self) -> "PieceStream":
        """An incremental decoder for one text."""
        return PieceStream(stages_of(None if self._decoder is None else self._steps))

    def piece_to_bytes(self) -> Callable[[str], bytes]:
        """A function from a piece to the bytes that it adds within a text."""
        types = {step["type"] for step in self._steps}
        table = byte_level_table()
        between_x, between_y = _text_between(self, "x"), _text_between(self, "y")

        def to_bytes(piece: str) -> bytes:
            # A step may drop repetitions of a piece.
            text = between_y(piece) if piece in ("x", "xx") else between_x(piece)
            if REPLACEMENT in text and REPLACEMENT not in piece:
                if "ByteFallback" in types and len(piece) == BYTE_PIECE and piece[:3] == "<0x":
                    return bytes([int(piece[3:5], 16)])
                if "ByteLevel" in types:
                    return b"".join(table.get(letter, b"") for letter in piece)
            return text.encode()

        return to_bytes


def _text_between(decoder: PieceDecoder, letter: str) -> Callable[[str], str]:
    """A function from a piece to the text that it adds between a letter and two more of it."""
    before, behind = letter, letter + letter
    head = decoder.text([before])
    tail = decoder.text([before, behind]).removeprefix(head)

    def text_between(piece: str) -> str:
        text = decoder.text([before, piece, behind])
        return text.removeprefix(head).removesuffix(tail)

    return text_between


class PieceStream:
    """Decodes the pieces of one text as they come."""

    def __init__(self, stages: Sequence[Stage]):
        self._stages = stages

    def push(self, piece: str) -> str:
        """Takes the next piece; returns the text that is now certain."""
        return "".join(self._through(0, [piece]))

    def finish(self) -> str:
        """Returns the rest of the text."""
        return "".join(self._finished())

    def _through(self, first: int, pieces: Iterable[str]) -> Iterable[str]:
        for stage in self._stages[first:]:
            pieces = [out for piece in pieces for out in stage.push(piece)]
        return pieces

    def _finished(self) -> Iterator[str]:
        for number, stage in enumerate(self._stages):
            yield from self._through(number + 1, list(stage.finish()))


class HuggingFaceStream:
    """Decodes the tokens of a text, or of the rest of one; see TextStream."""

    def __init__(
        self,
        decoder: PieceDecoder,
        piece: Callable[[int], str | None],
        after: Sequence[int] | None,
        error_context: AbstractContextManager[None],
        *,
        leading_space: bool,
    ):
        """Args:
        decoder: of the pieces.
        piece: maps a token to its piece; None for tokens that do not stand for text.
        after: see StreamsText.
        error_context: turns the library's exceptions into UserErrors.
        leading_space: whether decoded texts begin with a space that is not part of them.
        """
        self._piece, self._error_context = piece, error_context
        self._stream, self._preceding = decoder.stream(), ""
        before = [] if after is None else _pieces(after, piece)
        if after is not None and not after:
            before = [NEUTRAL]
        self._strips_space = leading_space and not before
        if before:
            with error_context:
                self._preceding = decoder.text(before)
                for previous in before:
                    self._new_text(self._stream.push(previous))

    def push(self, token: int) -> str:
        piece = self._piece(token)
        if piece is None:
            return ""
        with self._error_context:
            return self._new_text(self._stream.push(piece))

    def flush(self) -> str:
        with self._error_context:
            return self._new_text(self._stream.finish())

    def _new_text(self, text: str) -> str:
        """The part of decoded text after that of the preceding tokens."""
        if self._strips_space and text:
            self._strips_space, text = False, text.removeprefix(" ")
        if not self._preceding:
            return text
        pairs = zip(text, self._preceding, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        # The end of the preceding text may read differently now that text follows.
        self._preceding = self._preceding[same:] if same == len(text) else ""
        return text[same:]


def _pieces(ids: Sequence[int], piece: Callable[[int], str | None]) -> list[str]:
    """The last CONTEXT pieces of these tokens."""
    pieces = (piece(int(token)) for token in ids[-2 * CONTEXT :])
    return [text for text in pieces if text is not None][-CONTEXT:]
