"""Data sets of the Hugging Face hub by datatrove's reader, with all their columns."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmjax.data.datatrove.library import construct, versions
from llmjax.data.datatrove.readers import checked
from llmjax.data.text.filters import AnyFilter, RawDocument
from llmjax.data.text.hub import HubSource, hub_commit, hub_failures
from llmjax.data.text.source import Identity, Source, identify_settings
from llmjax.errors import UserError


@dataclass(frozen=True)
class DatatroveHubSource(Source):
    """A Hugging Face hub data set, streamed; filters know its other columns."""

    dataset: str
    """The repository: "owner/name"."""
    subset: str | None = None
    """The data set's configuration, if it has several."""
    split: str = "train"
    """The split to read."""
    text_key: str = "text"
    """The text column; rows without text are skipped."""
    batch_size: int = 1000
    """Rows in memory at a time."""
    revision: str | None = None
    """A branch, tag or commit; None: the newest commit."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["datatrove_hub"] = "datatrove_hub"

    @property
    def location(self) -> str:
        return self.dataset

    def problems(self) -> list[str]:
        return [] if self.batch_size > 0 else [f"batch_size {self.batch_size} is not positive"]

    def pinned(self) -> "DatatroveHubSource":
        return replace(self, revision=self._commit())

    def identify(self, cache_dir: str | None = None) -> Identity:
        self._reader()
        settings = [self.kind, self.dataset, self.subset, self.split, self.text_key]
        return identify_settings([*settings, self._commit(), versions()])

    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        return (document.text for document in self.raw_documents(cache_dir))

    def raw_documents(self, cache_dir: str | None = None) -> Iterator[RawDocument]:
        try:
            for document in self._reader().run():
                yield checked(f"{self.dataset}: {document.id}", document)
        except hub_failures() as error:
            reason = f"cannot be read from the hub: {error}"
            raise UserError(
                self.dataset, reason, "check name, split, network and access"
            ) from error

    def _commit(self) -> str:
        return hub_commit(HubSource(self.dataset, revision=self.revision))

    def _reader(self) -> Any:
        options = {"name": self.subset, "split": self.split, "revision": self.revision}
        arguments = {
            "dataset": self.dataset,
            "dataset_options": options,
            "streaming": True,
            "batch_size": self.batch_size,
            "text_key": self.text_key,
        }
        noun = f"source {self.kind}"
        return construct("readers", "HuggingFaceDatasetReader", arguments, noun)
