"""Splits texts into sentences, and long sentences into pieces."""

from collections.abc import Callable, Iterator, Sequence

from llmjax.errors import UserError

CountTokens = Callable[[Sequence[str]], list[int]]
"""The number of tokens of each text."""


def sentences(text: str, language: str = "en") -> list[str]:
    """Split a text into sentences, which joined together are the text.

    Args:
      text: to split.
      language: its code, such as "de"; that of an unknown language has the rules of English.

    Raises:
      UserError: sentencex is not installed.
    """
    try:
        from sentencex import segment
    except ImportError as error:
        raise UserError("sentences", "need sentencex", "pip install sentencex") from error
    parts: list[str] = segment(language, text)
    return parts if "".join(parts) == text else [text]


def fitting(text: str, count: CountTokens, space: int) -> Iterator[tuple[str, int]]:
    """Halve a text near the middle, at a space if possible, until each piece fits.

    Yields:
      Pieces, which joined together are the text, with their tokens: at most `space`, but for a
      single character.
    """
    stack = [text]
    while stack:
        piece = stack.pop()
        (size,) = count([piece])
        if size <= space or len(piece) == 1:
            yield piece, size
            continue
        middle = len(piece) // 2
        spaces = (piece.rfind(" ", 0, middle) + 1, piece.find(" ", middle) + 1)
        near = [cut for cut in spaces if len(piece) / 4 < cut < len(piece) * 3 / 4]
        cut = min(near, key=lambda index: abs(index - middle), default=middle)
        stack += [piece[cut:], piece[:cut]]
