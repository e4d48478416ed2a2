"""datatrove's filters by models: of languages, of labels, of word frequencies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from llmjax.data.datatrove.filters import DatatroveFilter, WordFilter, not_in_unit_interval
from llmjax.data.datatrove.library import versions
from llmjax.data.text.source import file_hash


@dataclass(frozen=True)
class LanguageFilter(DatatroveFilter):
    """Keeps documents of some languages, found by fastText's or GlotLID's model, which is
    downloaded at first. Later filters know the language of a document."""

    languages: tuple[str, ...] | None = None
    """Codes as the model has them: "en" for ft176, "eng_Latn" for glotlid. None: any language that
    is sure enough."""
    language_threshold: float = 0.65
    """Probability of the language, at least."""
    backend: Literal["ft176", "glotlid"] = "ft176"
    """The model."""
    label_only: bool = False
    """Drop no document."""
    keep_top_pairs_threshold: float = -1.0
    """Tell later filters all languages of this probability. -1: the best alone."""
    kind: Literal["language"] = "language"

    library_class: ClassVar[str] = "LanguageFilter"

    def problems(self) -> list[str]:
        return not_in_unit_interval("language_threshold", self.language_threshold)

    def resources(self, step: Any, cache_dir: str | None) -> Sequence[object]:
        lid = step.model
        return _fasttext_model(lid.MODEL_URL, "lid", lid.MODEL_SUBFOLDER, cache_dir)


@dataclass(frozen=True)
class FastTextClassifierFilter(DatatroveFilter):
    """Keeps documents, or parts of them, by the labels that a fastText model gives them."""

    model_url: str
    """The model: a file, or an address from which it is downloaded at first."""
    keep_labels: tuple[tuple[str, float], ...] | None = None
    """(label without "__label__", probability): keep what has one of them."""
    remove_labels: tuple[tuple[str, float], ...] | None = None
    """(label without "__label__", probability): drop what has one of them. Give these or those."""
    save_labels_in_metadata: bool = True
    """Tell later filters the labels."""
    newline_replacement: str = ""
    """What the model reads for the end of a line."""
    filter_mode: Literal["DOCUMENT", "PARAGRAPH"] = "DOCUMENT"
    """What is kept or dropped."""
    kind: Literal["fasttext"] = "fasttext"

    library_class: ClassVar[str] = "FastTextClassifierFilter"

    def problems(self) -> list[str]:
        if self.keep_labels and self.remove_labels:
            return ["keep_labels and remove_labels: give one of them"]
        return []

    def arguments(self) -> dict[str, Any]:
        labels = {
            name: list(self.settings[name] or ()) for name in ("keep_labels", "remove_labels")
        }
        return {**self.settings, **labels}

    def resources(self, step: Any, cache_dir: str | None) -> Sequence[object]:
        return _fasttext_model(self.model_url, "filters", "fasttext", cache_dir)


@dataclass(frozen=True)
class UnigramLogProbFilter(WordFilter):
    """Keeps documents of frequent English words; their list is downloaded at first."""

    logprobs_threshold: float = -10.0
    """Mean logarithm of the frequency of a word, at least."""
    language: str = "eng"
    """As for gopher_quality."""
    kind: Literal["unigram_log_prob"] = "unigram_log_prob"

    library_class: ClassVar[str] = "UnigramLogProbFilter"

    def resources(self, step: Any, cache_dir: str | None) -> Sequence[object]:
        from huggingface_hub import cached_assets_path

        folder = cached_assets_path(
            library_name="datatrove", namespace="filters", subfolder="unigram_logprob_filter"
        )
        words = super().resources(step, cache_dir)
        return [*words, file_hash(folder / "unigram_freq.csv", cache_dir)]


def _fasttext_model(url: str, namespace: str, folder: str, cache_dir: str | None) -> list[object]:
    """The versions, and the content of a model in datatrove's cache, downloaded at first."""
    from datatrove.io import cached_asset_path_or_download

    path = cached_asset_path_or_download(url, progress=False, namespace=namespace, subfolder=folder)
    return [*versions("fasttext-numpy2-wheel"), file_hash(Path(path), cache_dir)]
