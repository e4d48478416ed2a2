"""Data sets of the Hugging Face hub as documents, streamed rather than downloaded."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmjax.data.text.filters import AnyFilter
from llmjax.data.text.source import Identity, Source, identify_settings
from llmjax.errors import UserError


@dataclass(frozen=True)
class HubSource(Source):
    """A Hugging Face hub data set, streamed; needs the extra `hub`."""

    name: str
    """The repository: "owner/name"."""
    subset: str | None = None
    """The data set's configuration, if it has several."""
    split: str = "train"
    """The split to read."""
    field: str = "text"
    """The text column."""
    revision: str | None = None
    """A branch, tag or commit; None: the newest commit."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["hub"] = "hub"

    @property
    def location(self) -> str:
        return self.name

    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        return _documents(self)

    def identify(self, cache_dir: str | None = None) -> Identity:
        commit = hub_commit(self)
        return identify_settings(["hub", self.name, self.subset, self.split, self.field, commit])

    def pinned(self) -> "HubSource":
        return replace(self, revision=hub_commit(self))


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "source of kind 'hub'",
            "the package `datasets` is not installed",
            "pip install 'llmjax[hub]'",
        ) from error
    return datasets


def _documents(source: HubSource) -> Iterator[str]:
    """Streams the text column."""
    library = _library()
    try:
        rows = library.load_dataset(
            source.name,
            source.subset,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
        for row in rows:
            value = row.get(source.field)
            if not isinstance(value, str):
                strings = ", ".join(name for name, text in row.items() if isinstance(text, str))
                reason = f"has no text column {source.field!r}"
                raise UserError(source.name, reason, f"set field to one of: {strings or 'none'}")
            if value:
                yield value
    except hub_failures() as error:
        raise UserError(
            source.name,
            f"cannot be read from the hub: {error}",
            "check name, split, network and access",
        ) from error


def hub_commit(source: HubSource) -> str:
    """Resolves `source.revision` to a commit; without network access if it is one.

    Raises:
      UserError: the extra is not installed, or the data set is unknown or not accessible.
    """
    _library()
    if re.fullmatch("[0-9a-f]{40}", source.revision or ""):
        return str(source.revision)
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().dataset_info(source.name, revision=source.revision)
    except hub_failures() as error:
        raise UserError(
            source.name,
            f"cannot be found on the hub: {error}",
            "check the name, the network, and your access",
        ) from error
    return str(info.sha)


def hub_failures() -> tuple[type[BaseException], ...]:
    """The library's exceptions: its own derive from the first two; network errors are those of
    whichever HTTP library it has loaded."""
    clients = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return (OSError, ValueError, *(client.HTTPError for client in clients))
