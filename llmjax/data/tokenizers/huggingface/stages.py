"""The steps of a tokenizer.json's decoder as the pieces of a text come.

The steps are those of the `tokenizers` library, and it carries them out. What is written here is
which pieces a step has to see together, so that a text can be shown before it ends.
"""

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from llmjax.data.tokenizers.huggingface.library import library_decoder

LONGEST_PATTERN = 64
"""Characters of a replaced string that are looked for as a text grows; a step with a longer one
waits for the end of the text."""
BYTE_PIECE = 6
"""Length of "<0x41>"."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def byte_level_table() -> dict[str, bytes]:
    """Character -> byte in byte-level vocabularies: printable Latin-1 stands for itself, the other
    68 bytes, in order, for U+0100 and on (GPT-2, Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(rest)}


def byte_level_bytes(piece: str, table: Mapping[str, bytes]) -> bytes:
    """The bytes of a byte-level piece; one with a letter of no byte is spelt as it is."""
    letters = [table.get(letter) for letter in piece]
    known = [letter for letter in letters if letter is not None]
    return b"".join(known) if len(known) == len(letters) else piece.encode()


class Stage(Protocol):
    """A step of a decoder as pieces come: takes one, gives those that are sure by now."""

    def push(self, piece: str) -> Iterable[str]:
        """Takes the next piece."""

    def finish(self) -> Iterable[str]:
        """There are no more pieces."""


def stages_of(steps: Sequence[Mapping[str, Any]] | None) -> list[Stage]:
    """The steps as pieces come; the last takes what cannot be told before the end.

    None for a tokenizer.json without a decoder: its pieces are joined with spaces.
    """
    if steps is None:
        return [_Spaced()]
    found: list[Stage] = []
    one = False  # whether all pieces have become one, of which parts come
    for number, step in enumerate(steps):
        make = (IN_ONE if one else APART).get(step["type"])
        stage = make(step) if make else None
        if stage is None:
            return [*found, _Waiting(steps[number:], one)]
        found.append(stage)
        one |= step["type"] in ("Fuse", "ByteLevel")
    return found


class _Waiting:
    """Steps whose outcome the end of a text may change: they see it whole."""

    def __init__(self, steps: Sequence[Mapping[str, Any]], one: bool):
        self._decoder, self._one, self._pieces = library_decoder(steps), one, list[str]()

    def push(self, piece: str) -> Iterable[str]:
        self._pieces.append(piece)
        return ()

    def finish(self) -> Iterable[str]:
        yield self._decoder.decode(["".join(self._pieces)] if self._one else self._pieces)


class _Spaced:
    """Pieces joined with spaces."""

    _before = ""

    def push(self, piece: str) -> Iterable[str]:
        before, self._before = self._before, " "
        return (before + piece,)

    def finish(self) -> Iterable[str]:
        return ()


class _Each:
    """A step that treats each piece by itself."""

    def __init__(self, step: Mapping[str, Any]):
        self._decoder = library_decoder([step])

    def push(self, piece: str) -> Iterable[str]:
        return (self._decoder.decode([piece]),)

    def finish(self) -> Iterable[str]:
        return ()


class _FirstApart(_Each):
    """A step that treats the first piece in a way of its own."""

    _begun = False

    def push(self, piece: str) -> Iterable[str]:
        begun, self._begun = self._begun, True
        return (self._decoder.decode(["", piece] if begun else [piece]),)


class _LastApart(_Each):
    """A step that treats the last piece in a way of its own."""

    _held: str | None = None

    def push(self, piece: str) -> Iterable[str]:
        held, self._held = self._held, piece
        return () if held is None else (self._decoder.decode([held, ""]),)

    def finish(self) -> Iterable[str]:
        return () if self._held is None else (self._decoder.decode([self._held]),)


class _Deduplicated(_Each):
    """CTC: of equal pieces in a row, one; and none that stands for nothing."""

    _last: str | None = None

    def push(self, piece: str) -> Iterable[str]:
        again, self._last = piece == self._last, piece
        text = "" if again else self._decoder.decode([piece])
        return (text,) if text else ()


class _ByteRuns(_Each):
    """Byte fallback: bytes in a row are text if all of them are, else a U+FFFD each."""

    def __init__(self, step: Mapping[str, Any]):
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


class _ByteLevel:
    """Letters to bytes, and those to whole characters."""

    def __init__(self, step: Mapping[str, Any]):
        self._table = byte_level_table()
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> Iterable[str]:
        return (self._characters.decode(byte_level_bytes(piece, self._table)),)

    def finish(self) -> Iterable[str]:
        return (self._characters.decode(b"", final=True),)


class _Same:
    """Parts as they come."""

    def __init__(self, step: Mapping[str, Any]):
        pass

    def push(self, piece: str) -> Iterable[str]:
        return (piece,)

    def finish(self) -> Iterable[str]:
        return ()


class _Stripped:
    """Up to so many of a character off both ends of a text."""

    def __init__(self, step: Mapping[str, Any]):
        self._content, self._left, self._right = step["content"], step["start"], step["stop"]
        self._held = ""

    def push(self, piece: str) -> Iterable[str]:
        while self._left and piece:
            self._left = self._left - 1 if piece[0] == self._content else 0
            piece = piece.removeprefix(self._content) if piece[0] == self._content else piece
        text = self._held + piece
        kept = len(text.rstrip(self._content))
        sure = max(kept, len(text) - self._right)
        self._held = text[sure:]
        return (text[:sure],)

    def finish(self) -> Iterable[str]:
        return ()


class _Replaced:
    """One string for another in a text."""

    def __init__(self, pattern: str, content: str):
        self._pattern, self._content, self._held = pattern, content, ""

    def push(self, piece: str) -> Iterable[str]:
        *whole, rest = (self._held + piece).split(self._pattern)
        doubtful = next(
            size
            for size in range(min(len(self._pattern) - 1, len(rest)), -1, -1)
            if self._pattern.startswith(rest[len(rest) - size :])
        )
        self._held = rest[len(rest) - doubtful :]
        return (self._content.join([*whole, rest[: len(rest) - doubtful]]),)

    def finish(self) -> Iterable[str]:
        return (self._held,)


def _replaced(step: Mapping[str, Any]) -> Stage | None:
    """None where matches are not known before the end."""
    pattern = step["pattern"].get("String", "")
    return _Replaced(pattern, step["content"]) if 0 < len(pattern) <= LONGEST_PATTERN else None


# By the type that the file names. Of pieces apart, and of parts of one piece.
APART: dict[str, Callable[[Mapping[str, Any]], Stage | None]] = {
    "BPEDecoder": _LastApart,
    "ByteFallback": _ByteRuns,
    "ByteLevel": _ByteLevel,
    "CTC": _Deduplicated,
    "Fuse": _Same,
    "Metaspace": _FirstApart,
    "Replace": _Each,
    "Strip": _Each,
    "WordPiece": _FirstApart,
}
IN_ONE: dict[str, Callable[[Mapping[str, Any]], Stage | None]] = {
    "Fuse": _Same,
    "Metaspace": _Each,
    "Replace": _replaced,
    "Strip": _Stripped,
}
