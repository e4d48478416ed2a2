"""Compares the model's bits per byte with those of the classical compressors."""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmjax.data.text.corpus import prepare
from llmjax.data.text.corpus import validation_text as corpus_text
from llmjax.errors import UserError
from llmjax.evaluation.baselines import Baseline, measure
from llmjax.reporting.format import count, percent
from llmjax.reporting.records import History, finite_number, items, last, number
from llmjax.reporting.validation import latest_subset
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.storage.json_documents import read_json

MAX_BYTES = 64 << 20
"""Bytes of text to compress at most, from its start."""


@dataclass(frozen=True)
class Comparison:
    """Sizes of the compressors, with notes.

    Attributes:
      baselines: the sizes; empty if the text is not available and was never compressed before.
      bytes: UTF-8 bytes of the validation text; None if it is not available.
      notes: sentences for the reader.
      live: whether the text was compressed for this page.
    """

    baselines: Sequence[Baseline]
    bytes: int | None
    notes: Sequence[str]
    live: bool = False


def compare(folder: Path, text: Callable[[], bytes]) -> Comparison:
    """Compresses the validation text and stores the sizes in RUN/baselines.json.

    If the text is not available, uses the stored sizes.

    Args:
      folder: the run folder.
      text: returns the validation text, or raises a UserError if it is not available.
    """
    stored = folder / "baselines.json"
    try:
        validation = text()
        if not validation:
            raise UserError("validation text", "the run has none")
    except UserError as error:
        earlier = _read(stored)
        if earlier:
            note = f"Sizes from an earlier report; the text is not available now ({error})."
            return Comparison(earlier, earlier[0].original_bytes, [note])
        return Comparison([], None, [f"No compressor was run: {error}."])
    notes = []
    if len(validation) > MAX_BYTES:
        notes = [f"Compressed: the first {MAX_BYTES:,} of {len(validation):,} bytes."]
    sample = validation[:MAX_BYTES]
    baselines = list(measure(sample))
    digest = hashlib.sha256(sample).hexdigest()
    document = {"sha256": digest, "baselines": [asdict(baseline) for baseline in baselines]}
    with contextlib.suppress(OSError):  # a read-only folder still gets its page
        Run(folder).keep(stored, json.dumps(document, indent=2) + "\n")
    return Comparison(baselines, len(validation), notes, live=True)


def validation_text(run: Run, config: Config) -> bytes:
    """Returns the run's validation documents, concatenated, as UTF-8.

    Raises:
      UserError: neither the cache of tokenized text nor the sources can be read.
    """
    _, corpus = prepare(config.data, config.tokenizer, run.tokenizer)
    return corpus_text(corpus)


def _read(path: Path) -> list[Baseline]:
    """Reads stored sizes; returns none if the file is missing or invalid."""
    try:
        return read_baselines(read_json(path)["baselines"])
    except (UserError, TypeError, KeyError):
        return []


def read_baselines(value: Any) -> list[Baseline]:
    """Parses a list of compressors' sizes, skipping invalid entries."""
    keys = ("compressed_bytes", "original_bytes", "seconds")
    baselines = []
    for item in items(value):
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            numbers = [finite_number(item, key) for key in keys]
            packed, size, seconds = (-1.0 if value is None else value for value in numbers)
            if packed >= 0 and size > 0 and seconds >= 0:
                baselines.append(Baseline(item["name"], int(packed), int(size), seconds))
    return baselines


@dataclass(frozen=True)
class Bar:
    """A row of the comparison; `width` is in percent of the space for bars."""

    name: str
    width: str
    bits: str
    size: str
    relative: str
    seconds: str
    is_model: bool = False


def bars(history: History, comparison: Comparison) -> list[Bar]:
    """Returns the methods, best first; includes the model once it has been evaluated."""
    baselines = comparison.baselines
    if not baselines:
        return []
    return ranked(baselines, last(history.evals, "bits_per_byte"), baselines[0].original_bytes)


def ranked(
    baselines: Sequence[Baseline],
    model_bits: float | None,
    length: float,
    model_seconds: float | None = None,
) -> list[Bar]:
    """Returns the methods, best first, relative to the first of the baselines.

    Args:
      baselines: the compressors' sizes; may be empty.
      model_bits: the model's bits per byte; None if unknown.
      length: bytes of the input.
      model_seconds: how long the model took; None if unknown.
    """
    model_time = "n/a" if model_seconds is None else f"{model_seconds:.2f}"
    reference = baselines[0] if baselines else None
    rows = [
        (b.bits_per_byte, b.name, count(b.compressed_bytes), f"{b.seconds:.2f}", False)
        for b in baselines
    ]
    if model_bits is not None:
        rows.append((model_bits, "llmjax", count(model_bits * length / 8), model_time, True))
    longest = max((bits for bits, *_ in rows), default=1.0)
    return [
        Bar(
            name=name,
            width=f"{100 * bits / longest:.2f}",
            bits=f"{bits:.4f}",
            size=size,
            relative="n/a"
            if reference is None
            else percent(bits / reference.bits_per_byte - 1, signed=True),
            seconds=seconds,
            is_model=is_model,
        )
        for bits, name, size, seconds, is_model in sorted(rows)
    ]


def caption(comparison: Comparison) -> str:
    """Describes the compressed text."""
    if not comparison.baselines:
        return ""
    length = count(comparison.baselines[0].original_bytes)
    when = ", compressed when this page was written" if comparison.live else ""
    return f"Bits per byte of the same validation text, {length} bytes in one piece{when}."


def same_text(history: History, comparison: Comparison) -> bool:
    """Whether the model was evaluated on all of the compressed text, as far as known."""
    return comparison.bytes is None or not _scored_bytes(history) < comparison.bytes


def _scored_bytes(history: History) -> float:
    """Returns the bytes of text of the last successful evaluation; NaN if unknown."""
    same = latest_subset(history.evals)
    return number(same[-1], "heldout_bytes") if same else math.nan


def notes(history: History, comparison: Comparison) -> list[str]:
    """Returns notes on how to read the bars."""
    sentences = list(comparison.notes)
    if not comparison.baselines:
        return sentences
    if not history.evals:
        return [*sentences, "The model is missing: it has not been evaluated on validation text."]
    if not same_text(history, comparison):
        sentences.append(
            f"The model was evaluated on the first {count(_scored_bytes(history))} of these bytes "
            "only (evaluation.max_tokens)."
        )
    sentences.append(
        "The model's bytes are its code length: the output of an arithmetic coder driven by its "
        "predictions. Its weights, which were trained on similar text, are not counted; of the "
        "compressors, only brotli contains a dictionary of words."
    )
    return sentences
