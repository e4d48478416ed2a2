"""The origin of an imported run, kept in origin.json."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmjax.errors import UserError
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import DOCUMENT, json_text, read_json
from llmjax.storage.writing import write_atomically

ORIGIN = "origin.json"
AGAIN = "import the model again"
Pooling = Literal["mean", "cls", "last", "max", "mean_sqrt", "weighted_mean"]
"""How the hidden states of n tokens become a text's vector: their mean, the first or the last one,
the elementwise maximum, their sum divided by the square root of n, or their mean with weights 1, 2,
3, ..., n."""


@dataclass(frozen=True)
class Origin:
    """What is known of a published model beyond the run's config."""

    format: str = ""
    """hf or gguf."""
    source: str = ""
    """As given by the user."""
    model_type: str = ""
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """Its own config.json."""
    generation_config: dict[str, Any] | None = None
    pooling: Pooling | None = None
    """For text embeddings; None: the model does not say."""
    normalize: bool = False
    """Whether embeddings are normalized to length 1 at the end."""
    length: int | None = None
    """Tokens to which a text is truncated before it is embedded."""
    concatenated: list[Pooling] = field(default_factory=list)
    """Poolings whose vectors are concatenated to that of `pooling`."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Layers applied before `normalize`; see `llmjax.inference.embedding_layers`."""
    truncate: int | None = None
    """Dimensions to which an embedding is truncated at the end."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Texts to prepend to a text, by name."""
    default_prompt: str | None = None
    """The name of the prompt to use by default."""
    include_prompt: bool = True
    """Whether the prompt's tokens take part in pooling."""
    similarity: str | None = None
    """The intended similarity function: cosine, dot, euclidean or manhattan."""


def published_generation(origin: Origin | None) -> dict[str, Any]:
    """The generation_config.json of a published model; empty if it has none."""
    return (origin and origin.generation_config) or {}


def read_origin(run: Path) -> Origin | None:
    """The origin of an imported run; None for a run that started from scratch.

    Raises:
      UserError: its origin.json is damaged or was changed.
    """
    path = run / ORIGIN
    if not path.is_file():
        return None
    stored = read_json(path, limits=DOCUMENT, fix=AGAIN)
    try:
        return Origin(**check_checksum(stored, path))
    except (AttributeError, TypeError) as error:  # not an object, or unknown fields
        raise UserError(path, f"cannot be read: {error}", AGAIN) from error


def write_origin(run: Path, origin: Origin) -> None:
    """Writes a run's origin.json."""
    write_atomically(run / ORIGIN, json_text(with_checksum(vars(origin)), indent=1) + "\n")
