"""datatrove's filters by rules of text quality."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from llmjax.data.datatrove.filters import DatatroveFilter, WordFilter


@dataclass(frozen=True)
class GopherQualityFilter(WordFilter):
    """Drops documents by Gopher's rules of quality (arXiv:2112.11446, table A1)."""

    min_doc_words: int | None = 50
    """Words of a document, at least; symbols do not count."""
    max_doc_words: int | None = 100_000
    """Words of a document, at most."""
    min_avg_word_length: int | None = 3
    """Mean characters of a word, at least."""
    max_avg_word_length: int | None = 10
    """Mean characters of a word, at most."""
    max_symbol_word_ratio: float | None = 0.1
    """Hash signs per word, and ellipses per word, at most."""
    max_bullet_lines_ratio: float | None = 0.9
    """Share of lines that start with a bullet, at most."""
    max_ellipsis_lines_ratio: float | None = 0.3
    """Share of lines that end with an ellipsis, at most."""
    max_non_alpha_words_ratio: float | None = 0.8
    """Share of words with a letter, at least, in spite of datatrove's name for it."""
    min_stop_words: int | None = 2
    """Different stop words, at least."""
    stop_words: tuple[str, ...] | None = None
    """The stop words; None: eight of English."""
    language: str = "eng"
    """Its words are split as in this language, for most by the package spaCy. Empty: at spaces, in
    any language, without a package."""
    kind: Literal["gopher_quality"] = "gopher_quality"

    library_class: ClassVar[str] = "GopherQualityFilter"


@dataclass(frozen=True)
class GopherRepetitionFilter(WordFilter):
    """Drops documents that repeat themselves, by Gopher's rules (arXiv:2112.11446, table A1)."""

    dup_line_frac: float | None = 0.3
    """Share of lines that are copies, at most."""
    dup_para_frac: float | None = 0.3
    """Share of paragraphs that are copies, at most."""
    dup_line_char_frac: float | None = 0.2
    """Share of characters in lines that are copies, at most."""
    dup_para_char_frac: float | None = 0.2
    """Share of characters in paragraphs that are copies, at most."""
    top_n_grams: tuple[tuple[int, float], ...] = ((2, 0.2), (3, 0.18), (4, 0.16))
    """(n, share of characters in the most frequent run of n words, at most)."""
    dup_n_grams: tuple[tuple[int, float], ...] = (
        (5, 0.15),
        (6, 0.14),
        (7, 0.13),
        (8, 0.12),
        (9, 0.11),
        (10, 0.10),
    )
    """(n, share of characters in runs of n words that are copies, at most)."""
    language: str = "eng"
    """As for gopher_quality."""
    kind: Literal["gopher_repetition"] = "gopher_repetition"

    library_class: ClassVar[str] = "GopherRepetitionFilter"


@dataclass(frozen=True)
class C4QualityFilter(WordFilter):
    """Drops lines and documents by the rules of C4 (arXiv:1910.10683, section 2.2); the kept lines
    are the document."""

    split_paragraph: bool = True
    """The rules are those of lines; false: of sentences."""
    remove_citations: bool = True
    """Removes citations as in Wikipedia: "[1]"."""
    filter_no_terminal_punct: bool = True
    """Drops lines that do not end with a punctuation mark."""
    min_num_sentences: int = 5
    """Sentences of a document, at least. -1: any number."""
    min_words_per_line: int = 3
    """Words of a line, at least. -1: any number."""
    max_word_length: int = 1000
    """Drops lines with a longer word, in characters. -1: of any length."""
    filter_lorem_ipsum: bool = True
    """Drops documents with "lorem ipsum"."""
    filter_javascript: bool = True
    """Drops lines that name JavaScript."""
    filter_curly_bracket: bool = True
    """Drops documents with a curly bracket."""
    filter_policy: bool = True
    """Drops lines about cookies and terms of use."""
    language: str = "eng"
    """Sentences are counted as in this language, for most by the package spaCy. Empty: a line is a
    sentence."""
    kind: Literal["c4_quality"] = "c4_quality"

    library_class: ClassVar[str] = "C4QualityFilter"

    @property
    def words_of(self) -> str:
        counts = self.min_num_sentences != -1
        return self.language if counts or not self.split_paragraph else ""


@dataclass(frozen=True)
class C4ParagraphFilter(DatatroveFilter):
    """Drops documents without three lines of 200 characters, as mC4 does (arXiv:2010.11934)."""

    kind: Literal["c4_paragraph"] = "c4_paragraph"

    library_class: ClassVar[str] = "C4ParagraphFilter"


@dataclass(frozen=True)
class FineWebQualityFilter(WordFilter):
    """Drops documents by FineWeb's rules (arXiv:2406.17557, section 3.6)."""

    line_punct_thr: float = 0.12
    """Share of lines that end with a punctuation mark, at least."""
    line_punct_exclude_zero: bool = False
    """Keeps documents in which no line does."""
    stop_chars: tuple[str, ...] | None = None
    """The punctuation marks; None: those of all scripts."""
    short_line_thr: float = 0.67
    """Share of short lines, at most."""
    short_line_length: int = 30
    """A line of up to so many characters is short."""
    char_duplicates_ratio: float = 0.01
    """Share of characters in lines that are copies, at most."""
    new_line_ratio: float = 0.3
    """Line ends per word, at most."""
    language: str = "eng"
    """As for gopher_quality."""
    kind: Literal["fineweb_quality"] = "fineweb_quality"

    library_class: ClassVar[str] = "FineWebQualityFilter"
