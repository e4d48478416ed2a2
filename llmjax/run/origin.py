"""Where an imported run comes from: origin.json, beside its config."""

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
"""How the states of a text's tokens become its vector: their mean, the first or the last one, the
largest of each number, their sum by the root of how many they are, or their mean with weights 1, 2,
3, ..."""


@dataclass(frozen=True)
class Origin:
    """What a published model says beyond a run's config."""

    format: str = ""
    """hf or gguf."""
    source: str = ""
    """As the user named it."""
    model_type: str = ""
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """Its own config.json."""
    generation_config: dict[str, Any] | None = None
    pooling: Pooling | None = None
    """For vectors of texts; None: nothing is said of them."""
    normalize: bool = False
    """Whether the last step brings a vector to length 1."""
    length: int | None = None
    """Tokens from which a text is cut off for its vector."""
    concatenated: list[Pooling] = field(default_factory=list)
    """Poolings whose vectors stand behind that of `pooling`."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """What is done with a vector before `normalize`; see `llmjax.inference.embedding_layers`."""
    truncate: int | None = None
    """How many numbers of a vector are kept in the end."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Texts to put before a text, by name."""
    default_prompt: str | None = None
    """The name of the one that is put there unless another is asked for."""
    include_prompt: bool = True
    """Whether the prompt's tokens count in pooling."""
    similarity: str | None = None
    """By what vectors are meant to be compared: cosine, dot, euclidean or manhattan."""


def read_origin(run: Path) -> Origin | None:
    """What a run was imported from; None for one that was trained here.

    Raises:
      UserError: its origin.json is damaged or was changed.
    """
    path = run / ORIGIN
    if not path.is_file():
        return None
    stored = read_json(path, limits=DOCUMENT, fix=AGAIN)
    try:
        return Origin(**check_checksum(stored, path))
    except (AttributeError, TypeError) as error:  # no object, or of other names
        raise UserError(path, f"cannot be read: {error}", AGAIN) from error


def write_origin(run: Path, origin: Origin) -> None:
    """Writes a run's origin.json."""
    write_atomically(run / ORIGIN, json_text(with_checksum(vars(origin)), indent=1) + "\n")
