"""The interface of datatrove's filters as filters of ours: one dataclass each, with the parameters
of its class in datatrove but for those that write files or run code."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llmjax.data.datatrove.library import complete, construct, versions
from llmjax.data.text.filters import Apply, Filter, RawDocument
from llmjax.data.text.split import document_hash
from llmjax.errors import UserError

_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class DatatroveFilter(Filter):
    """A filter of datatrove."""

    library_class: ClassVar[str]
    """Its class in datatrove.pipeline.filters."""

    @property
    def noun(self) -> str:
        """What messages call it."""
        return f"filter {self.kind}"

    @property
    def settings(self) -> dict[str, Any]:
        """Its fields, as JSON values."""
        names = (item.name for item in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name != "kind"}

    def arguments(self) -> dict[str, Any]:
        """The parameters of its class."""
        return self.settings

    def resources(self, step: Any, cache_dir: str | None) -> Sequence[object]:
        """JSON values of the packages, models and lists that the opened `step` depends on; they are
        downloaded first if need be.

        Raises:
          UserError: one is missing, and cannot be downloaded.
        """
        return versions()

    def identify(self, cache_dir: str | None = None) -> Sequence[object]:
        step = _opened(self)
        with complete(self.noun):
            resources = self.resources(step, cache_dir)
        return [self.kind, self.settings, resources]

    def step(self) -> Any:
        """The filter of datatrove."""
        return construct("filters", self.library_class, self.arguments(), self.noun)

    def open(self) -> Apply:
        step = _opened(self)
        from datatrove.data import Document

        def apply(document: RawDocument) -> str | None:
            self.prepare(step, document)
            theirs = Document(document.text, "", metadata=document.metadata)
            try:
                result = step.filter(theirs)
            except _FAILURES as error:
                shown = document.text[:40]
                reason = f"fails on the document {shown!r}...: {type(error).__name__}: {error}"
                raise UserError(self.noun, reason) from error
            document.text = theirs.text
            kept, reason = result if isinstance(result, tuple) else (result, None)
            return None if kept else str(reason or "dropped")

        return apply

    def prepare(self, step: Any, document: RawDocument) -> None:
        """Prepares datatrove's filter for a document."""


@functools.lru_cache(16)
def _opened(filter: DatatroveFilter) -> Any:
    """Its step: one for all that a process reads, since some load large lists."""
    return filter.step()


@dataclass(frozen=True)
class WordFilter(DatatroveFilter):
    """A filter that splits text into the words or sentences of its field `language`."""

    @property
    def words_of(self) -> str:
        """Code of the language; empty: none."""
        return str(self.settings["language"])

    def arguments(self) -> dict[str, Any]:
        from llmjax.data.datatrove.words import splitter

        return {**self.settings, "language": splitter(self.words_of)}

    def resources(self, step: Any, cache_dir: str | None) -> Sequence[object]:
        from llmjax.data.datatrove.words import identify_splitter

        return identify_splitter(self.words_of, self.noun)


def seed_by_document(step: Any, seed: int, document: RawDocument) -> None:
    """Gives a filter that draws random numbers those of a document, whichever it read before."""
    import numpy as np

    hash_ = document_hash(document.text.encode("utf-8"))
    step.uniform = np.random.default_rng([seed, hash_]).uniform


def not_in_unit_interval(name: str, value: float) -> list[str]:
    """The problem of a share that is none."""
    return [] if 0 <= value <= 1 else [f"{name} {value} is not in [0, 1]"]


def negative_seed(seed: int) -> list[str]:
    """The problem of a seed that NumPy does not take."""
    return [] if seed >= 0 else [f"seed {seed} is negative"]
