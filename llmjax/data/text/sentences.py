"""Splits texts into sentences."""

from llmjax.errors import UserError


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
