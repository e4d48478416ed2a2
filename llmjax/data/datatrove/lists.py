"""datatrove's filters by lists of words and addresses, by a pattern, and at random."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from llmjax.data.datatrove.filters import (
    DatatroveFilter,
    negative_seed,
    not_in_unit_interval,
    seed_by_document,
)
from llmjax.data.datatrove.library import versions
from llmjax.data.text.filters import RawDocument
from llmjax.errors import UserError


@dataclass(frozen=True)
class C4BadWordsFilter(DatatroveFilter):
    """Drops documents with a word of C4's list of bad words (arXiv:1910.10683, section 2.2), of the
    language that an earlier filter `language` found, or the default. The list is downloaded."""

    keep_fraction: float = 0.0
    """Share of these documents that is kept; which ones depends on their text and the seed."""
    fail_on_missing_language: bool = True
    """Stop at a language without a list; false: its documents are kept."""
    seed: int = 0
    """Of the documents that are kept."""
    default_language: str = "en"
    """Of documents of which none is known."""
    kind: Literal["c4_bad_words"] = "c4_bad_words"

    library_class: ClassVar[str] = "C4BadWordsFilter"

    def problems(self) -> list[str]:
        return not_in_unit_interval("keep_fraction", self.keep_fraction) + negative_seed(self.seed)

    def resources(self, step: Any, cache_dir: str | None) -> Sequence[object]:
        step._get_badwords(self.default_language)  # of a fixed commit, so the version decides
        return versions()

    def prepare(self, step: Any, document: RawDocument) -> None:
        seed_by_document(step, self.seed, document)


@dataclass(frozen=True)
class URLFilter(DatatroveFilter):
    """Drops documents by their URLs: of blocked domains, or with banned words. The source must know
    the URLs, as `warc` does."""

    soft_word_threshold: int = 2
    """So many softly banned words in a URL are too many."""
    extra_domains: tuple[str, ...] | None = None
    """More domains to block."""
    extra_urls: tuple[str, ...] | None = None
    """More URLs to block."""
    banned_words: tuple[str, ...] | None = None
    """More banned words."""
    banned_subwords: tuple[str, ...] | None = None
    """More words that are banned as parts of words too."""
    soft_banned_words: tuple[str, ...] | None = None
    """More softly banned words."""
    use_integrated_lists: bool = True
    """Use datatrove's own lists."""
    kind: Literal["url"] = "url"

    library_class: ClassVar[str] = "URLFilter"

    def step(self) -> Any:
        step = super().step()
        from tldextract import TLDExtract

        # Not the list of the day, which it would download, but that of its version.
        step.tldextractor = TLDExtract(cache_dir=None, suffix_list_urls=())
        return step

    def resources(self, step: Any, cache_dir: str | None) -> Sequence[object]:
        step.download_data()
        return versions("tldextract")

    def prepare(self, step: Any, document: RawDocument) -> None:
        if not document.metadata.get("url"):
            reason = "the source knows no URL of a document"
            raise UserError(self.noun, reason, "take one that does: warc, or datatrove_jsonl")


@dataclass(frozen=True)
class RegexFilter(DatatroveFilter):
    """Drops documents in which a regular expression matches."""

    regex_exp: str
    """The expression, as Python writes it."""
    kind: Literal["regex"] = "regex"

    library_class: ClassVar[str] = "RegexFilter"

    def problems(self) -> list[str]:
        try:
            re.compile(self.regex_exp)
        except re.error as error:
            return [f"regex_exp {self.regex_exp!r} is not a regular expression: {error}"]
        return []


@dataclass(frozen=True)
class SamplerFilter(DatatroveFilter):
    """Keeps a random sample of the documents. Whether one is kept depends on its text and the seed
    alone, and not, as in datatrove, on those before it."""

    rate: float = 0.5
    """Share that is kept."""
    seed: int = 0
    """Of the sample."""
    kind: Literal["sampler"] = "sampler"

    library_class: ClassVar[str] = "SamplerFilter"

    def problems(self) -> list[str]:
        return not_in_unit_interval("rate", self.rate) + negative_seed(self.seed)

    def prepare(self, step: Any, document: RawDocument) -> None:
        seed_by_document(step, self.seed, document)
