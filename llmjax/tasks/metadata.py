"""Metadata of tasks, stored with a run as tasks.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import DOCUMENT, read_json


@dataclass(frozen=True)
class TaskMetadata:
    """What a task needs to know about its training set."""

    labels: tuple[str, ...] = ()
    """Labels, in the order of the head's outputs."""
    counts: tuple[int, ...] = ()
    """Examples per label."""
    mean: float = 0.0
    """Mean of the target numbers."""
    chat_template: str | None = None
    """Chat template, for tokenizers without one."""
    reading: str = ""
    """How the rows are read, where that was found by their columns; for display."""
    references: tuple[tuple[str, float, float], ...] = ()
    """(example digest, log-likelihoods of its two answers under the initial model)."""

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "TaskMetadata":
        """Restore what `to_dict` returned."""
        lists = {name: tuple(stored[name]) for name in ("labels", "counts")}
        lists["references"] = tuple(map(tuple, stored.get("references", ())))
        return cls(**{**stored, **lists})

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return asdict(self)


def metadata_json(metadata: Mapping[str, TaskMetadata]) -> str:
    """Serialize RUN/tasks.json: each task's metadata by name."""
    plain = {name: item.to_dict() for name, item in metadata.items()}
    return json.dumps(with_checksum(plain), indent=1, ensure_ascii=False) + "\n"


def read_metadata(path: Path, names: Sequence[str]) -> list[TaskMetadata]:
    """Read the metadata of these tasks from a run's tasks.json.

    Raises:
      UserError: the file is missing, damaged or edited, or belongs to other tasks.
    """
    stored = read_json(path, limits=DOCUMENT, fix="restore it from a copy")
    try:
        plain = check_checksum(stored, path)
        return [TaskMetadata.from_dict(plain[name]) for name in names]
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise UserError(path, f"cannot be used: {error!r}", "restore it from a copy") from error
