"""Terms of a text for lexical search: the same in every store.

Words are runs of letters, digits and marks of any script, without accents and case. Scripts written
without spaces have no words to find by rule, so each two neighbouring characters are a term, as in
Lucene's CJKBigramFilter.
"""

import re
import sys
import unicodedata
from functools import cache

MAX_QUERY_TERMS = 64
"""Different terms of a question that are looked for: the first ones."""

# Thai, Lao, Myanmar, Khmer, kana, bopomofo, Han and its extensions.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)


def terms(text: str) -> list[str]:
    """Return the terms of a text in order."""
    found = list[str]()
    for word in _patterns()[0].findall(_folded(text)):
        for run in _patterns()[1].findall(word):
            if re.match(f"[{_UNSPACED}]", run) and len(run) > 1:
                found += [run[index : index + 2] for index in range(len(run) - 1)]
            else:
                found.append(run)
    return found


def query_terms(question: str) -> list[str]:
    """Return the different terms of a question, at most MAX_QUERY_TERMS."""
    return list(dict.fromkeys(terms(question)))[:MAX_QUERY_TERMS]


def _folded(text: str) -> str:
    """Without case, compatibility forms and the accents of European scripts."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFKC", re.sub("[\u0300-\u036f]", "", decomposed))


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Words, and within them runs of unspaced scripts and of others.

    Marks are not word characters to `re`, though vowels of Indic scripts are marks.
    """
    codes = range(0x300, sys.maxunicode + 1)
    marks = "".join(chr(c) for c in codes if unicodedata.category(chr(c))[0] == "M")
    word = re.compile(f"(?:[^\\W_]|[{marks}])+")
    return word, re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")
