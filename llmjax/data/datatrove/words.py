"""How datatrove splits text into words and sentences."""

import re
from typing import Any

from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer

from llmjax.data.datatrove.library import complete, versions
from llmjax.errors import UserError

# Scripts that write words without spaces: each of their characters counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")

# Class of datatrove's -> the package that splits.
_PACKAGES = {
    "SpaCyTokenizer": "spacy",
    "WhitespaceTokenizer": "spacy",
    "StanzaTokenizer": "stanza",
    "ThaiTokenizer": "pythainlp",
    "IndicNLPTokenizer": "indic-nlp-library",
    "KiwiTokenizer": "kiwipiepy",
    "KhmerTokenizer": "khmer-nltk",
    "LaoTokenizer": "laonlp",
    "TibetanTokenizer": "botok",
    "BurmeseTokenizer": "pyidaungsu-numpy2",
}


class Words(WordTokenizer):
    """Splits any language into words, without a model: at spaces, or between characters."""

    def word_tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


_words = Words()  # one for all filters: datatrove keeps every splitter that it is given


def splitter(language: str) -> Any:
    """What filters of datatrove take for a language: its code, or Words for the empty one."""
    return language or _words


def identify_splitter(language: str, noun: str) -> list[str]:
    """What the words of a language depend on.

    Raises:
      UserError: datatrove does not know the language, or what splits it is not installed.
    """
    if not language:
        return versions()
    with complete(noun):
        try:
            tokenizer = load_word_tokenizer(language)
        except ValueError as error:
            reason = f"datatrove cannot split the language {language!r} into words"
            raise UserError(noun, reason, "give a code such as eng or fra, or none") from error
        tokenizer.word_tokenize("word")
    return versions(_PACKAGES[type(tokenizer).__name__])
