"""The classical compressors' figures on a run's own held-out text."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmjax.data.text.corpus import prepare
from llmjax.data.text.corpus import validation_text as corpus_text
from llmjax.errors import UserError
from llmjax.evaluation.baselines import Baseline, measure
from llmjax.reporting.measured import known_baselines
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.storage.json_documents import read_json
from llmjax.storage.writing import write_atomically

LIMIT = 64 << 20
"""Bytes that are compressed at most; of more text, the first ones."""


@dataclass(frozen=True)
class Comparison:
    """Figures of the compressors, and what to know about them.

    Attributes:
      baselines: none where the text cannot be had and was never compressed before.
      bytes: UTF-8 bytes of the whole held-out text; None where it cannot be had.
      notes: sentences for the reader.
      live: whether the text was compressed just now.
    """

    baselines: Sequence[Baseline]
    bytes: int | None
    notes: Sequence[str]
    live: bool = False


def compare(folder: Path, text: Callable[[], bytes]) -> Comparison:
    """Compresses the held-out text, and keeps the figures in RUN/baselines.json.

    A run folder that was carried away from its data still shows the figures it came with.

    Args:
      folder: the run folder.
      text: gives the held-out text, or raises a UserError that says why it cannot.
    """
    stored = folder / "baselines.json"
    try:
        heldout = text()
        if not heldout:
            raise UserError("held-out text", "the run holds none out")
    except UserError as error:
        earlier = _read(stored)
        if earlier:
            note = f"Figures of an earlier report; the text is out of reach now ({error})."
            return Comparison(earlier, earlier[0].original_bytes, [note])
        return Comparison([], None, [f"No compressor was run: {error}."])
    notes = []
    if len(heldout) > LIMIT:
        notes = [f"Compressed: the first {LIMIT:,} of {len(heldout):,} bytes."]
    sample = heldout[:LIMIT]
    digest = hashlib.sha256(sample).hexdigest()
    baselines = list(measure(sample))
    document = {"sha256": digest, "baselines": [asdict(baseline) for baseline in baselines]}
    with contextlib.suppress(OSError):  # a folder that is only read still gets its page
        write_atomically(stored, json.dumps(document, indent=2) + "\n")
    return Comparison(baselines, len(heldout), notes, live=True)


def heldout_text(run: Run, config: Config) -> bytes:
    """The run's held-out text as UTF-8, documents one after the other.

    Raises:
      UserError: the cache of tokenized text is gone, and the sources cannot be read any more.
    """
    _, corpus = prepare(config.data, config.tokenizer, run.tokenizer)
    return corpus_text(corpus)


def _read(path: Path) -> list[Baseline]:
    """Figures stored before; none where the file is missing or is something else."""
    try:
        return known_baselines(read_json(path)["baselines"])
    except (UserError, TypeError, KeyError):
        return []
