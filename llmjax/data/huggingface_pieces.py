"""What the entries of a tokenizer.json's vocabulary stand for."""

from collections.abc import Callable, Collection, Iterator
from typing import Any


def decoders(spec: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The decoders of a tokenizer.json, sequences taken apart."""
    if spec and spec["type"] == "Sequence":
        for inner in spec["decoders"]:
            yield from decoders(inner)
    elif spec:
        yield spec


def piece_decoder(spec: dict[str, Any], added: Collection[str]) -> Callable[[str], bytes]:
    """What a vocabulary entry stands for, by the decoder that tokenizer.json states.

    Tokens `added` to the vocabulary are spelt as they are, but for U+2581, which is a space.
    """
    found = {decoder["type"]: decoder for decoder in decoders(spec.get("decoder"))}
    if "ByteLevel" in found:
        table = byte_level_table()

        def spell(piece: str) -> bytes:
            return b"".join(table.get(c) or c.encode() for c in piece)

    elif "WordPiece" in found:
        prefix = found["WordPiece"].get("prefix", "##")

        def spell(piece: str) -> bytes:
            inside = piece.startswith(prefix)
            return (piece.removeprefix(prefix) if inside else " " + piece).encode()

    elif "BPEDecoder" in found:
        suffix = found["BPEDecoder"].get("suffix", "</w>")

        def spell(piece: str) -> bytes:
            return str(piece.replace(suffix, " ")).encode()

    else:
        return _sentencepiece_decoder(found)
    return lambda piece: piece.encode() if piece in added else spell(piece)


def _sentencepiece_decoder(found: dict[str, dict[str, Any]]) -> Callable[[str], bytes]:
    replacements = [("\u2581", " ")] if "Metaspace" in found else []
    if "Replace" in found and "String" in found["Replace"]["pattern"]:
        replacement = found["Replace"]
        replacements.append((replacement["pattern"]["String"], replacement["content"]))

    def plain(piece: str) -> bytes:
        if "ByteFallback" in found and len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        for old, new in replacements:
            piece = piece.replace(old, new)
        return piece.encode()

    return plain


def byte_level_table() -> dict[str, bytes]:
    """Character -> byte in byte-level vocabularies: printable Latin-1 stands for itself, the other
    68 bytes, in order, for U+0100 and on (GPT-2, Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(rest)}
