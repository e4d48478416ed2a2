"""Incremental versions of the decoder steps of a tokenizer.json.

The `tokenizers` library carries out the steps; this file determines which pieces a step must see
together, so that text can be emitted before it ends.
"""

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from llmjax.data.tokenizers.huggingface.library import library_decoder

LONGEST_PATTERN = 64
"""Maximum length of a replaced string that is searched for incrementally; a step with a longer one
waits for the end of the text."""
BYTE_PIECE = 6
"""Length of "<0x41>"."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Step: TypeAlias = Mapping[str, Any]


def byte_level_table() -> dict[str, bytes]:
    """Character -> byte in byte-level vocabularies: printable Latin-1 characters stand for
    themselves, U+0100 onwards for the other 68 bytes in order (GPT-2, Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(rest)}


def byte_level_bytes(piece: str, table: Mapping[str, bytes]) -> bytes:
    """The bytes of a byte-level piece; its UTF-8 if a character does not stand for a byte."""
    bytes_ = [table.get(letter) for letter in piece]
    return piece.encode() if None in bytes_ else b"".join(filter(None, bytes_))


class Stage:
    """An incremental decoder step; this one passes pieces on unchanged."""

    def __init__(self, step: Step):
        pass

    def push(self, piece: str) -> Iterable[str]:
        """Takes the next piece; returns the output that is now certain."""
        return (piece,)

    def finish(self) -> Iterable[str]:
        """Ends the text; returns the rest of the output."""
        return ()


def stages_of(steps: Sequence[Step] | None) -> list[Stage]:
    """The stages of a decoder's steps; the last one combines all that need the end of the text.

    None, for a tokenizer.json without a decoder, joins pieces with spaces.
    """
    if steps is None:
        return [_JoinWithSpaces({})]
    stages: list[Stage] = []
    fused = False  # whether earlier steps join all pieces into one
    for number, step in enumerate(steps):
        make = (OF_FUSED if fused else OF_PIECES).get(step["type"])
        stage = make(step) if make else None
        if stage is None:
            return [*stages, _AtEnd(steps[number:], fused)]
        stages.append(stage)
        fused |= step["type"] in ("Fuse", "ByteLevel")
    return stages


class _AtEnd(Stage):
    """Steps whose output the end of a text may change: they wait for it."""

    def __init__(self, steps: Sequence[Step], fused: bool):
        self._decoder, self._fused, self._pieces = library_decoder(steps), fused, list[str]()

    def push(self, piece: str) -> Iterable[str]:
        self._pieces.append(piece)
        return ()

    def finish(self) -> Iterable[str]:
        yield self._decoder.decode(["".join(self._pieces)] if self._fused else self._pieces)


class _JoinWithSpaces(Stage):
    _before = ""

    def push(self, piece: str) -> Iterable[str]:
        before, self._before = self._before, " "
        return (before + piece,)


class _Each(Stage):
    """A step that treats each piece separately."""

    def __init__(self, step: Step):
        self._decoder = library_decoder([step])

    def push(self, piece: str) -> Iterable[str]:
        return (self._decoder.decode([piece]),)


class _FirstDiffers(_Each):
    """A step that treats the first piece differently."""

    _begun = False

    def push(self, piece: str) -> Iterable[str]:
        begun, self._begun = self._begun, True
        return (self._decoder.decode(["", piece] if begun else [piece]),)


class _LastDiffers(_Each):
    """A step that treats the last piece differently."""

    _held: str | None = None

    def push(self, piece: str) -> Iterable[str]:
        held, self._held = self._held, piece
        return () if held is None else (self._decoder.decode([held, ""]),)

    def finish(self) -> Iterable[str]:
        return () if self._held is None else (self._decoder.decode([self._held]),)


class _Deduplicated(_Each):
    """CTC: drops repeated and empty pieces."""

    _last: str | None = None

    def push(self, piece: str) -> Iterable[str]:
        again, self._last = piece == self._last, piece
        text = "" if again else self._decoder.decode([piece])
        return (text,) if text else ()


class _ByteRuns(_Each):
    """Byte fallback: a run of bytes becomes text if it is valid UTF-8, else a U+FFFD each."""

    def __init__(self, step: Step):
        super().__init__(step)
        self._run: list[str] = []

    def push(self, piece: str) -> Iterable[str]:
        if len(piece.encode()) == BYTE_PIECE and self._decoder.decode([piece]) != piece:
            self._run.append(piece)
            return ()
        return (*self.finish(), piece)

    def finish(self) -> Iterable[str]:
        run, self._run = self._run, []
        if not run:
            return ()
        text = self._decoder.decode(run)
        return tuple(text) if text == REPLACEMENT * len(run) else (text,)


class _ByteLevel(Stage):
    """Byte-level characters to bytes, and these to complete characters."""

    def __init__(self, step: Step):
        self._table = byte_level_table()
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> Iterable[str]:
        return (self._characters.decode(byte_level_bytes(piece, self._table)),)

    def finish(self) -> Iterable[str]:
        return (self._characters.decode(b"", final=True),)


class _Stripped(Stage):
    """Strips up to a number of a character off both ends of a text."""

    def __init__(self, step: Step):
        self._content, self._left, self._right = step["content"], step["start"], step["stop"]
        self._held = ""

    def push(self, piece: str) -> Iterable[str]:
        while self._left and piece:
            self._left = self._left - 1 if piece[0] == self._content else 0
            piece = piece.removeprefix(self._content) if piece[0] == self._content else piece
        text = self._held + piece
        kept = len(text.rstrip(self._content))
        certain = max(kept, len(text) - self._right)
        self._held = text[certain:]
        return (text[:certain],)


class _Replaced(Stage):
    """Replaces a string in a text."""

    def __init__(self, step: Step):
        self._pattern, self._content = step["pattern"]["String"], step["content"]
        self._held = ""

    def push(self, piece: str) -> Iterable[str]:
        *complete, rest = (self._held + piece).split(self._pattern)
        doubtful = next(
            size
            for size in range(min(len(self._pattern) - 1, len(rest)), -1, -1)
            if self._pattern.startswith(rest[len(rest) - size :])
        )
        self._held = rest[len(rest) - doubtful :]
        return (self._content.join([*complete, rest[: len(rest) - doubtful]]),)

    def finish(self) -> Iterable[str]:
        return (self._held,)


def _replaced(step: Step) -> Stage | None:
    """The stage of a replacement; None if matches are uncertain before the end."""
    length = len(step["pattern"].get("String", ""))
    return _Replaced(step) if 0 < length <= LONGEST_PATTERN else None


# By type of step: for separate pieces, and for parts of one fused piece.
OF_PIECES: dict[str, Callable[[Step], Stage | None]] = {
    "BPEDecoder": _LastDiffers,
    "ByteFallback": _ByteRuns,
    "ByteLevel": _ByteLevel,
    "CTC": _Deduplicated,
    "Fuse": Stage,
    "Metaspace": _FirstDiffers,
    "Replace": _Each,
    "Strip": _Each,
    "WordPiece": _FirstDiffers,
}
OF_FUSED: dict[str, Callable[[Step], Stage | None]] = {
    "Fuse": Stage,
    "Metaspace": _Each,
    "Replace": _replaced,
    "Strip": _Stripped,
}
