"""Which rows of one table are learnt from, and which are measured on."""

from llmjax.data.tables.table import Row, list_at, split_rows
from llmjax.tasks.config import ClassificationTask, MultiLabelTask, TaskConfig, TokenTask
from llmjax.tasks.labels import label_at


def divide(config: TaskConfig, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """(to learn from, to measure on): by the hashes of the rows' contents (`split_rows`), but for
    labels that only rows to measure on have. Nothing could learn those, so that all rows with such
    a label (and with them their groups) are learnt from.

    Raises:
      UserError: no row is left to learn from, or one has no label or no column of groups.
    """
    learnt, dev = split_rows(rows, config.dev_fraction, config.group)
    known = {label for row in learnt for label in _labels(config, row)}
    needed = [row for row in dev if not known.issuperset(_labels(config, row))]
    if not needed:
        return learnt, dev
    kinds = {_kind(config, row) for row in needed}
    moved = [row for row in dev if _kind(config, row) in kinds]
    return learnt + moved, [row for row in dev if _kind(config, row) not in kinds]


def _kind(config: TaskConfig, row: Row) -> str:
    """Rows of one kind stay on one side."""
    values = sorted(row.values.items()) if config.group is None else row.values[config.group]
    return repr(values)


def _labels(config: TaskConfig, row: Row) -> set[str]:
    """The labels of a row, as the task's facts name them; none where it has no labels."""
    match config:
        case ClassificationTask():
            return {label_at(row, config.label)}
        case MultiLabelTask():
            return {str(label) for label in list_at(row, config.labels, config.separator)}
        case TokenTask():
            return {str(tag).strip() for tag in list_at(row, config.tags)}
    return set()
