"""Pieces to text by the decoder that a tokenizer.json states, whole or as the pieces come."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from llmjax.data.tokenizers.huggingface.pieces import byte_level_table, steps_of
from llmjax.data.tokenizers.huggingface.stages import (
    BYTE_PIECE,
    REPLACEMENT,
    Stage,
    library_decoder,
    stages_of,
)


class PieceDecoder:
    """The decoder of a tokenizer.json."""

    def __init__(self, spec: Mapping[str, Any] | None):
        """`spec`: the entry "decoder"; None joins pieces with spaces, as the library does."""
        self._steps = tuple(steps_of(spec))
        self._whole = None if spec is None else library_decoder(self._steps)

    @property
    def spells_bytes(self) -> bool:
        """Whether each piece stands for bytes of its own, and the text is all of them."""
        return [step["type"] for step in self._steps] == ["ByteLevel"]

    def text(self, pieces: list[str]) -> str:
        """The text of all pieces of a text."""
        if self._whole is None:
            return " ".join(pieces)
        text: str = self._whole.decode(pieces)
        return text

    def stream(self) -> "PieceStream":
        """For the pieces of one text, one after the other."""
        return PieceStream(stages_of(None if self._whole is None else self._steps))

    def inside(self) -> Callable[[str], bytes]:
        """What a piece adds in the midst of a text; part of a character as its bytes."""
        kinds = {step["type"] for step in self._steps}
        table = byte_level_table()
        usual, other = _between(self, "x"), _between(self, "y")

        def added(piece: str) -> bytes:
            # Of equal pieces in a row, a step may leave out all but one.
            text = other(piece) if piece in ("x", "xx") else usual(piece)
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
