"""Filters of documents: their interface, their registry, and counts of what each dropped.

Cheap to import: libraries are imported when a filter is opened.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeAlias

from llmjax.registry import Registry


@dataclass
class RawDocument:
    """A document as it is read; filters may change it."""

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the source says of it, such as its URL."""


Apply: TypeAlias = Callable[[RawDocument], str | None]
"""Filters a document, which it may change; returns why it is dropped, or None if it is kept."""


class Filter(ABC):
    """Keeps, changes or drops documents, each by itself: what becomes of one depends on its text
    and metadata alone, so not on who reads which part of a source. Subclasses are frozen
    dataclasses."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in FILTERS and in configs."""

    def problems(self) -> list[str]:
        """Every problem with the values, one line each; nothing is imported or read."""
        return []

    @abstractmethod
    def identify(self, cache_dir: str | None = None) -> Sequence[object]:
        """JSON values of everything that its results depend on.

        Args:
          cache_dir: see DataConfig.cache_dir.

        Raises:
          UserError: a package, a model or a list that it needs is missing.
        """

    @abstractmethod
    def open(self) -> Apply:
        """Loads what it needs; errors are those of `identify`, also later."""


FILTERS = Registry[Filter](
    "filter",
    {
        "gopher_quality": "llmjax.data.datatrove.quality:GopherQualityFilter",
        "gopher_repetition": "llmjax.data.datatrove.quality:GopherRepetitionFilter",
        "c4_quality": "llmjax.data.datatrove.quality:C4QualityFilter",
        "c4_paragraph": "llmjax.data.datatrove.quality:C4ParagraphFilter",
        "c4_bad_words": "llmjax.data.datatrove.lists:C4BadWordsFilter",
        "fineweb_quality": "llmjax.data.datatrove.quality:FineWebQualityFilter",
        "language": "llmjax.data.datatrove.models:LanguageFilter",
        "fasttext": "llmjax.data.datatrove.models:FastTextClassifierFilter",
        "unigram_log_prob": "llmjax.data.datatrove.models:UnigramLogProbFilter",
        "url": "llmjax.data.datatrove.lists:URLFilter",
        "regex": "llmjax.data.datatrove.lists:RegexFilter",
        "sampler": "llmjax.data.datatrove.lists:SamplerFilter",
    },
)

AnyFilter: TypeAlias = Annotated[Filter, FILTERS]
"""Type of config fields that take any filter."""


@dataclass(frozen=True)
class Dropped:
    """What a filter dropped."""

    filter: str
    """Its kind."""
    documents: int
    """That it was given."""
    reasons: Mapping[str, int]
    """Documents dropped, by reason."""

    @property
    def total(self) -> int:
        """Documents dropped."""
        return sum(self.reasons.values())


class FilterChain:
    """The filters of a source, one after the other, and what they have dropped so far."""

    def __init__(self, filters: Sequence[Filter]):
        """Raises a UserError if a filter lacks something."""
        self._kinds = [filter.kind for filter in filters]
        self._apply = [filter.open() for filter in filters]
        self._given = [0] * len(filters)
        self._reasons = [Counter[str]() for _ in filters]

    def keep(self, document: RawDocument) -> bool:
        """Applies the filters to a document; returns whether all kept it, with text in it."""
        for number, apply in enumerate(self._apply):
            self._given[number] += 1
            reason = apply(document)
            if reason is None and not document.text:
                reason = "no text is left"
            if reason is not None:
                self._reasons[number][reason] += 1
                return False
        return True

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """What each filter has dropped, in their order."""
        counts = zip(self._kinds, self._given, self._reasons, strict=True)
        return tuple(
            Dropped(kind, given, dict(sorted(reasons.items()))) for kind, given, reasons in counts
        )


def total_dropped(parts: Iterable[Sequence[Dropped]]) -> tuple[Dropped, ...]:
    """What the same filters dropped of several parts of a source."""
    totals = []
    for counts in zip(*parts, strict=True):
        reasons = sum((Counter(count.reasons) for count in counts), Counter[str]())
        given = sum(count.documents for count in counts)
        totals.append(Dropped(counts[0].filter, given, dict(sorted(reasons.items()))))
    return tuple(totals)


def dropped_figures(dropped: Sequence[Dropped]) -> dict[str, Any]:
    """As part of a cache's description; nothing without filters."""
    return {"filters": [asdict(count) for count in dropped]} if dropped else {}


def read_dropped(description: Mapping[str, Any]) -> tuple[Dropped, ...]:
    """What `dropped_figures` wrote."""
    return tuple(Dropped(**count) for count in description.get("filters", ()))
