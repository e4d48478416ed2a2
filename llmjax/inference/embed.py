"""The command `embed`: text embeddings."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from llmjax.errors import UserError
from llmjax.inference.embedder import make_embedder
from llmjax.inference.generate import read_prompts
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.run.config.options import keyword_options
from llmjax.run.origin import Pooling
from llmjax.storage.cache_folders import write_file
from llmjax.storage.json_documents import json_text
from llmjax.storage.stores.path import local_path


@dataclass(frozen=True)
class EmbedOptions(LoadOptions):
    """Options of embed."""

    text: tuple[str, ...] = ()
    """A text; repeat it for more."""
    file: str | None = None
    """More texts, one per line; - for standard input; .jsonl for multi-line texts, as JSON
    strings or objects with "text"."""
    out: str | None = None
    """Output file: .npy, float32 [texts, width], or .jsonl, one line per text."""
    pooling: Pooling | None = None
    """How token states are pooled; none: as the model was published, else "mean" (encoders) or
    "last" (decoders). Any other than the published pooling skips the published model's layers after
    pooling."""
    normalize: bool | None = None
    """Whether to L2-normalize vectors; none: as the model was published, else no."""
    prompt: str | None = None
    """Name of a published prompt to prepend to each text; "": no prompt; none: the model's default
    prompt."""
    batch_size: int = 32
    """Texts per batch; texts of similar length are batched together."""


@keyword_options("text")
def embed(run: str | PathLike[str] | LanguageModel, options: EmbedOptions) -> np.ndarray:
    """Embed texts, special tokens included.

    An encoder-decoder embeds with its encoder. Texts are truncated to the context, or to the
    published length of the model.

    Args:
      run: a run folder, or a loaded model.
      options: fields of EmbedOptions, also as keywords.

    Returns:
      float32 [texts, width].

    Raises:
      UserError: no such run, step or file, an unknown pooling or prompt, or a batch size below 1.
    """
    texts = all_texts(options)
    out = None if options.out is None else local_path(options.out)
    if out is not None and out.suffix not in (".npy", ".jsonl"):
        raise UserError(out, "is neither .npy nor .jsonl", "use one of these suffixes")
    embedder = make_embedder(
        loaded(run, options),
        pooling=options.pooling,
        normalize=options.normalize,
        prompt=options.prompt,
        batch_size=options.batch_size,
    )
    vectors = embedder.embed(texts)
    if out is not None:
        _write(out, texts, vectors)
    return vectors


def all_texts(options: EmbedOptions) -> list[str]:
    """Return the texts of the options and of their file."""
    return [
        *options.text,
        *(read_prompts(options.file, "text") if options.file is not None else []),
    ]


def _write(out: Path, texts: Sequence[str], vectors: np.ndarray) -> None:
    content = io.BytesIO()
    if out.suffix == ".npy":
        np.save(content, vectors)
    else:
        for text, vector in zip(texts, vectors.tolist(), strict=True):
            line = json_text({"text": text, "vector": vector})
            content.write(f"{line}\n".encode())
    write_file(out, content.getvalue())
