"""The documentation of installed Python packages, read as text: nothing of them is run."""

import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import Distribution
from pathlib import Path
from typing import Literal

from llmjax.data.text.filters import AnyFilter
from llmjax.data.text.python_docs import docstrings
from llmjax.data.text.source import Identity, Source, identify_settings
from llmjax.errors import UserError

PAGES = (".md", ".rst")
LARGEST = 4 << 20
"""Bytes of a file; larger ones are generated or data."""
SKIPPED = {"test", "tests", "testing", "_vendor", "licenses"}
"""Folders of no documentation, or of other packages'."""
FORMAT = 1
"""Raised when the same files give other documents."""


@dataclass(frozen=True)
class PackagesSource(Source):
    """Docstrings and documentation of the packages installed beside llmjax: text for experiments,
    without a download. What it holds depends on what is installed."""

    packages: tuple[str, ...] = ()
    """Names of distributions, as pip lists them; none: all but those installed for editing."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["packages"] = "packages"

    @property
    def location(self) -> str:
        return ", ".join(self.packages)

    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        """Per distribution, by name: its description, its pages, then its modules by path, each as
        its docstrings without those that occurred before in the same distribution."""
        for distribution in self._distributions().values():
            yield from _documents(distribution)

    def identify(self, cache_dir: str | None = None) -> Identity:
        """By the names, versions and hashes of files that were recorded at installation."""
        found = self._distributions().items()
        return identify_settings(
            [self.kind, FORMAT, *([name, each.version, _record(each)] for name, each in found)]
        )

    def parts(self, cache_dir: str | None = None) -> Sequence[Source]:
        """One per distribution."""
        return [replace(self, packages=(name,)) for name in self._distributions()]

    def licenses(self) -> dict[str, str]:
        """The licence that each distribution names: name and version -> licence, or "not named"."""
        return {
            f"{name} {each.version}": _license(each) for name, each in self._distributions().items()
        }

    def _distributions(self) -> Mapping[str, Distribution]:
        """By name, in the order of names."""
        if not self.packages:
            found = {each.name: each for each in importlib.metadata.distributions() if each.name}
            kept = {name: each for name, each in found.items() if _record(each)}
            return dict(sorted(kept.items(), key=lambda item: item[0].lower()))
        return {name: _distribution(name) for name in self.packages}


def _distribution(name: str) -> Distribution:
    try:
        return importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        thing, fix = f"data.sources: package {name}", "`pip list` shows what is"
        raise UserError(thing, "is not installed", fix) from error


def _record(distribution: Distribution) -> str:
    """A hash of the list of files and their hashes; empty if these are elsewhere."""
    direct = distribution.read_text("direct_url.json") or ""
    record = distribution.read_text("RECORD")
    if record is None or '"editable": true' in direct:
        return ""
    # Without what pip compiles and notes, which differ between installations of the same files.
    lines = (
        line for line in record.splitlines() if ".pyc" not in line and ".dist-info" not in line
    )
    return hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=16).hexdigest()


def _license(distribution: Distribution) -> str:
    metadata = distribution.metadata
    for field in ("License-Expression", "License"):
        if field in metadata and (value := metadata[field].strip()):
            return value.splitlines()[0]
    named = [line for line in metadata.get_all("Classifier") or () if line.startswith("License")]
    return "; ".join(line.rpartition(" :: ")[2] for line in named) or "not named"


def _documents(distribution: Distribution) -> Iterator[str]:
    if description := str(distribution.metadata.json.get("description", "")).strip():
        yield description + "\n"
    files = sorted(distribution.files or (), key=str)
    paths = [
        Path(str(distribution.locate_file(file))) for file in files if not SKIPPED & set(file.parts)
    ]
    for path in paths:
        if path.suffix in PAGES and (text := _page(path)):
            yield text + "\n"
    seen: set[str] = set()
    for path in paths:
        if path.suffix == ".py" and _is_readable(path):
            new = [text for text in docstrings(path) if text not in seen]
            seen.update(new)
            if new:
                yield "\n\n".join(dict.fromkeys(new)) + "\n"


def _is_readable(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= LARGEST


def _page(path: Path) -> str:
    """A page's text; empty if it has none, or is not UTF-8."""
    if not _is_readable(path):
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
