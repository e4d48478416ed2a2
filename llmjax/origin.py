"""Where an imported run comes from: origin.json, beside its config."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmjax.errors import UserError

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
      UserError: its origin.json is damaged.
    """
    path = run / ORIGIN
    if not path.is_file():
        return None
    try:
        return Origin(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(path, f"cannot be read: {error}", "import the model again") from error


def write_origin(run: Path, origin: Origin) -> None:
    """Writes a run's origin.json."""
    text = json.dumps(vars(origin), indent=1, ensure_ascii=False)
    (run / ORIGIN).write_text(text + "\n", encoding="utf-8")
