"""What the finished runs of a ladder reached, as a table."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from llmjax.errors import UserError
from llmjax.run import environment
from llmjax.run.folder import Run
from llmjax.scaling.fitting import Points
from llmjax.scaling.folder import final_record
from llmjax.scaling.ladder import Member
from llmjax.scaling.laws import RepetitionLaw
from llmjax.storage.writing import write_atomically

REPETITION = RepetitionLaw(15.387)
"""What tokens that are read again are worth, as Muennighoff et al. (arXiv:2305.16264) fitted."""


@dataclass(frozen=True)
class Point:
    """A finished run."""

    name: str
    depth: int
    width: int
    seed: int
    parameters: int
    parameters_without_embeddings: int
    tokens: int
    """Read in training, repeated ones too."""
    unique_tokens: int
    """Of the training text."""
    flops: float
    """Of training, by PaLM's accounting (see `model.flops`)."""
    batch_size: int
    steps: int
    learning_rate: float
    weight_decay: float
    bits_per_byte: float
    """On the whole validation set."""
    nats_per_token: float
    is_held_out: bool

    @property
    def effective_tokens(self) -> float:
        """Tokens of which none is repeated that would be worth as much."""
        return float(REPETITION.effective_tokens(self.tokens, self.unique_tokens))


def points_of(members: Sequence[Member]) -> list[Point]:
    """Those of the members that are finished."""
    return [point for member in members if (point := _point(member)) is not None]


def _point(member: Member) -> Point | None:
    run, config = Run(Path(member.config.run_dir)), member.config
    record = final_record(run, config.steps)
    if record is None:
        return None
    model, data = config.model, environment.read(run.folder / "environment.json")["data"]
    return Point(
        name=member.name,
        depth=max(model.num_encoder_layers, model.num_decoder_layers),
        width=model.d_model,
        seed=config.seed,
        parameters=member.size.parameters,
        parameters_without_embeddings=member.size.without_embeddings,
        tokens=member.tokens,
        unique_tokens=int(data["train_tokens"]),
        flops=member.flops,
        batch_size=config.data.batch_size,
        steps=config.steps,
        learning_rate=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
        bits_per_byte=float(record["bits_per_byte"]),
        nats_per_token=float(record["loss"]),
        is_held_out=member.is_held_out,
    )


def fitted(points: Sequence[Point], with_embeddings: bool) -> Points:
    """The points of a loss law in bits per byte, without held-out ones."""
    kept = [point for point in points if not point.is_held_out]
    counts = [p.parameters if with_embeddings else p.parameters_without_embeddings for p in kept]
    return Points(
        np.array(counts, float),
        np.array([point.effective_tokens for point in kept], float),
        np.array([point.bits_per_byte for point in kept], float),
    )


def write_points(folder: Path, points: Sequence[Point]) -> None:
    """Writes points.csv and points.parquet.

    Raises:
      UserError: the folder cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    rows = [asdict(point) for point in points]
    text, table = io.StringIO(), pyarrow.Table.from_pylist(rows)
    writer = csv.DictWriter(text, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    try:
        write_atomically(folder / "points.csv", text.getvalue())
        write_atomically(folder / "points.parquet", sink.getvalue().to_pybytes())
    except OSError as error:
        raise UserError(folder, f"cannot be written: {error.strerror or error}") from error
