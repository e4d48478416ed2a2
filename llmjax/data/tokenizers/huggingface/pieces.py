"""Parts of a tokenizer.json: the steps of its sequences, the letters that stand for bytes."""

from collections.abc import Iterator, Mapping
from typing import Any

INSIDE = ("normalizers", "pretokenizers", "decoders")


def steps_of(spec: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer, a pre-tokenizer or a decoder, sequences taken apart."""
    if not spec:
        return
    if spec["type"] != "Sequence":
        yield spec
        return
    for key in INSIDE:
        for inner in spec.get(key) or ():
            yield from steps_of(inner)


def byte_level_table() -> dict[str, bytes]:
    """Character -> byte in byte-level vocabularies: printable Latin-1 stands for itself, the other
    68 bytes, in order, for U+0100 and on (GPT-2, Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(rest)}


def spelt(piece: str, table: Mapping[str, bytes]) -> bytes:
    """The bytes of a byte-level piece; one with a letter of no byte is spelt as it is."""
    letters = [table.get(letter) for letter in piece]
    known = [letter for letter in letters if letter is not None]
    return b"".join(known) if len(known) == len(letters) else piece.encode()
