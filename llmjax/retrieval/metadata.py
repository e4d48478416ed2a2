"""What an index remembers of the run that embeds for it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmjax.compression.fingerprint import model_fingerprint
from llmjax.errors import UserError
from llmjax.inference.embedder import Embedder
from llmjax.inference.language_model import LoadOptions
from llmjax.storage.json_documents import json_text

FORMAT = 1


@dataclass(frozen=True)
class IndexMetadata:
    """The embedding run of an index.

    Attributes:
      run: its folder.
      fingerprint: of the model, the tokenizer and the way of embedding.
      width: of its vectors.
      step, dtype, quantize: how it was loaded.
      prompt: name of the prompt of passages; None for none.
      format: of the index.
    """

    run: str
    fingerprint: str
    width: int
    step: int
    dtype: str | None
    quantize: str | None
    prompt: str | None
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def load_options(self) -> LoadOptions:
        """How to load the run again."""
        return LoadOptions(step=self.step, dtype=self.dtype, quantize=self.quantize)  # type: ignore[arg-type]


def read_metadata(document: Mapping[str, Any], name: str) -> IndexMetadata:
    """Read what a store holds.

    Raises:
      UserError: it is of another format.
    """
    if document.get("format") != FORMAT:
        reason = f"is an index of format {document.get('format')}, and this version reads {FORMAT}"
        raise UserError(name, reason, "index again into a new one")
    try:
        return IndexMetadata(**document)
    except TypeError as error:
        raise UserError(name, "is damaged: its metadata", "index into a new one") from error


def describe(
    embedder: Embedder, run: str, prompt: str | None, options: LoadOptions
) -> IndexMetadata:
    """Describe an embedding run.

    Args:
      embedder: the loaded run.
      run: its folder.
      prompt: name of the prompt of passages.
      options: how it was loaded.
    """
    width = embedder.embed([]).shape[1]
    lm, fingerprint = embedder.lm, run_fingerprint(embedder)
    return IndexMetadata(run, fingerprint, width, lm.step, options.dtype, options.quantize, prompt)


def run_fingerprint(embedder: Embedder) -> str:
    """Hash the model, the tokenizer and the way of embedding, but for the prompt."""
    spec = embedder.spec
    way = repr((spec.length, spec.pooling.kinds, spec.truncate, spec.normalize))
    layers = json_text([layer.to_json() for layer in spec.layers])
    parts = (model_fingerprint(embedder.lm), embedder.lm.tokenizer.fingerprint, way, layers)
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def check_same_run(stored: IndexMetadata, found: str, run: str, name: str) -> None:
    """Check that vectors of a run belong to an index.

    Args:
      stored: the index's.
      found: fingerprint of the run.
      run: its folder.
      name: of the index.

    Raises:
      UserError: the fingerprints differ.
    """
    if stored.fingerprint != found:
        reason = (
            f"was made with {stored.run} step {stored.step} (fingerprint {stored.fingerprint[:8]}),"
            f" and the vectors of {run} (fingerprint {found[:8]}) do not belong to it"
        )
        raise UserError(name, reason, "use that run, or index into a new one")
