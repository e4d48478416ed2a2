"""Fixed terms of translations."""

import re
from dataclasses import dataclass
from pathlib import Path

from llmjax.errors import UserError
from llmjax.storage.bounded import MIB, read_text

LIMIT = 4 * MIB
"""Bytes of a glossary."""


@dataclass(frozen=True)
class Glossary:
    """Terms with their fixed translations.

    A term is replaced by its translation before the model reads the sentence, since such models
    mostly copy what they do not know.

    Attributes:
      terms: term -> its translation.
    """

    terms: dict[str, str]

    def apply(self, text: str) -> str:
        """Replace the terms that stand in a text as whole words, the longest first."""
        return self._pattern().sub(lambda match: self.terms[match[0]], text) if self.terms else text

    def missing(self, source: str, translation: str) -> list[str]:
        """The fixed translations of the terms of `source` that `translation` lacks."""
        found = self._pattern().findall(source) if self.terms else []
        wanted = dict.fromkeys(self.terms[term] for term in found)
        return [term for term in wanted if term.casefold() not in translation.casefold()]

    def _pattern(self) -> re.Pattern[str]:
        longest = sorted(self.terms, key=len, reverse=True)
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")


def read_glossary(path: str | None) -> Glossary:
    """Read a table of terms: a line each, the term and its translation with a tab between.

    Raises:
      UserError: the file cannot be read, or a line has another form; names the line.
    """
    terms: dict[str, str] = {}
    if path is None:
        return Glossary(terms)
    for number, line in enumerate(read_text(Path(path).expanduser(), LIMIT).splitlines(), 1):
        if not line.strip():
            continue
        term, _, translation = (part.strip() for part in line.partition("\t"))
        if not (term and translation):
            reason = "is not a term and its translation with a tab between"
            raise UserError(f"{path} line {number}", reason, "write TERM<tab>TRANSLATION")
        terms[term] = translation
    return Glossary(terms)
