"""Reads, splits, checks and describes the training and validation rows of a task."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmjax.data.tables.table import Row, read_tables, split_rows
from llmjax.errors import UserError
from llmjax.tasks.config import TaskConfig, name_of
from llmjax.tasks.metadata import TaskMetadata

RARE = 0.05
"""Fraction of the examples below which a label is reported as rare."""


def read_rows(config: TaskConfig) -> tuple[list[Row], list[Row]]:
    """Read a task's (training rows, validation rows).

    Raises:
      UserError: a table cannot be read, or no training row is left.
    """
    rows = read_tables(config.train)
    if config.dev:
        return rows, read_tables(config.dev)
    train, dev = split_by_content(config, rows)
    if not train:
        raise UserError(
            f"task {name_of(config)}", "all rows are held out", "lower dev_fraction or add rows"
        )
    return train, dev


def split_by_content(config: TaskConfig, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Split into (training rows, validation rows) by hashes of the rows' contents (`split_rows`).

    Validation rows with a label that the training rows lack, and their groups, become training
    rows.

    Raises:
      UserError: no training row is left, or a row lacks its label or group.
    """
    train, dev = split_rows(rows, config.dev_fraction, config.group)
    labels = {label for row in train for label in config.labels_of(row)}
    unseen = [row for row in dev if not labels.issuperset(config.labels_of(row))]
    groups = {_group_key(config, row) for row in unseen}
    moved = [row for row in dev if _group_key(config, row) in groups] if groups else []
    kept = [row for row in dev if _group_key(config, row) not in groups] if groups else dev
    return train + moved, kept


def _group_key(config: TaskConfig, row: Row) -> str:
    """Return a key that is equal for rows that must stay on the same side."""
    values = sorted(row.values.items()) if config.group is None else row.values[config.group]
    return repr(values)


def require_targets(config: TaskConfig, train: Sequence[Row], dev: Sequence[Row]) -> None:
    """Check before training that the validation rows have targets.

    Raises:
      UserError: a row lacks its target; names row and column.
    """
    if dev:
        config.find_metadata([*train, *dev])  # together: validation rows may have one label only


def describe(config: TaskConfig, metadata: TaskMetadata, train: int, dev: int) -> list[str]:
    """Summarize the examples in lines of text, to print before training.

    Args:
      config: of the task.
      metadata: of its training rows.
      train: number of training examples.
      dev: number of validation rows.
    """
    lines = [f"task {name_of(config)}: {train:,} training examples, {dev:,} validation rows"]
    if metadata.reading:
        lines.append(f"rows {metadata.reading}")
    if not metadata.counts:
        return lines
    total, labels = sum(metadata.counts), metadata.labels
    counts = dict(zip(labels, metadata.counts, strict=True))
    listed = [f"{label} {count / total:.1%}" for label, count in counts.items()][:20]
    more = f", and {len(labels) - 20} more" if len(labels) > 20 else ""
    lines.append(f"{len(labels)} labels: {', '.join(listed)}{more}")
    limit = RARE * total / max(1, len(labels) / 2)
    if rare := [label for label, count in counts.items() if 0 < count < limit]:
        advice = f"; {config.imbalance_advice}" if config.imbalance_advice else ""
        lines.append(f"rare labels: {', '.join(rare[:10])}{advice}")
    return lines


def texts_of(config: TaskConfig, rows: Sequence[Row]) -> Iterator[str]:
    """Yield all text of the rows, input and output, for training a tokenizer."""
    for row in rows:
        for column in config.text_columns:
            yield from _strings(row.values.get(column))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)
