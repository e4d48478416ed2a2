"""A run's loss as it was predicted before the run was trained, kept in its folder."""

import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.run.folder import Run
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import json_text, read_json
from llmjax.storage.writing import write_atomically

FILE = "prediction.json"


@dataclass(frozen=True)
class Prediction:
    """What was predicted, from what, and when."""

    bits_per_byte: float
    """On the validation set, after the last step."""
    low: float
    high: float
    """The interval."""
    coverage: float
    """Of the interval: the share of cases in which it should hold the outcome."""
    law: str
    """The fitted law, in words and numbers."""
    runs: tuple[str, ...]
    """Folders of the runs that it was fitted to."""
    written: float
    """Unix seconds."""


def predict(run: Run, prediction: Prediction) -> None:
    """Writes a prediction into the folder of a run that was not trained yet.

    Raises:
      UserError: the run has begun; or the folder cannot be written.
    """
    if run.steps() or (run.metrics_file.is_file() and run.metrics_file.stat().st_size):
        reason = "has begun to train, and what it will reach can no longer be predicted"
        raise UserError(run.address, reason, "predict a run that does not exist yet")
    document = with_checksum(asdict(prediction) | {"runs": list(prediction.runs)})
    try:
        write_atomically(run.folder / FILE, json_text(document, indent=1) + "\n")
    except OSError as error:
        raise UserError(run.address, f"cannot be written: {error.strerror or error}") from error


def prediction_of(run: Run) -> Prediction | None:
    """The prediction in a run's folder; None: there is none.

    Raises:
      UserError: it was changed since it was written, or is damaged.
    """
    path: Path = run.folder / FILE
    if not path.is_file():
        return None
    document: Any = read_json(path)
    names = {field.name for field in fields(Prediction)}
    if not isinstance(document, dict) or not names <= document.keys():
        raise UserError(path, "is not a prediction", "remove it")
    values = check_checksum(document, path)
    return Prediction(**{name: values[name] for name in names} | {"runs": tuple(values["runs"])})


def now() -> float:
    """Unix seconds."""
    return time.time()
