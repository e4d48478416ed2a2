"""Where an imported run comes from: origin.json, beside its config."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmjax.errors import UserError
from llmjax.storage import json_text, read_json, sealed, unsealed, write_atomically

ORIGIN = "origin.json"
Pooling = Literal["mean", "cls", "last"]
"""How the states of a text's tokens become its vector: their mean, the first or the last one."""


@dataclass(frozen=True)
class Origin:
    """What a published model says that a run's config has no place for."""

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
    length: int | None = None
    """Tokens from which a text is cut off for its vector."""


def read_origin(run: Path) -> Origin | None:
    """What a run was imported from; None for one that was trained here.

    Raises:
      UserError: its origin.json is damaged or was changed.
    """
    path = run / ORIGIN
    if not path.is_file():
        return None
    fix = "import the model again"
    stored = read_json(path, fix=fix)
    try:
        return Origin(**unsealed(stored, path))
    except (AttributeError, TypeError) as error:  # no object, or of other names
        raise UserError(path, f"cannot be read: {error}", fix) from error


def write_origin(run: Path, origin: Origin) -> None:
    """Writes a run's origin.json."""
    write_atomically(run / ORIGIN, json_text(sealed(vars(origin)), indent=1) + "\n")
