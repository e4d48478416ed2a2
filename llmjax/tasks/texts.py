"""Texts and pairs of texts as segments: wrapped as the model expects them, cut to fit a row."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmjax.data.tables.table import Row, text_at
from llmjax.tasks.config import TaskConfig
from llmjax.tasks.example import Segment
from llmjax.tasks.task import Setting

log = logging.getLogger(__name__)


def read_texts(
    setting: Setting, rows: Sequence[Row], text: str, pair: str | None = None
) -> list[Segment]:
    """The segment of each row's text, or pair of texts.

    A text is cut at its end; of a pair the longer one, token by token (the longest first).

    Raises:
      UserError: a row has no such text.
    """
    tokenizer = setting.tokenizer
    firsts = tokenizer.encode_batch([text_at(row, text) for row in rows])
    seconds: Sequence[Sequence[int] | None] = [None] * len(rows)
    if pair is not None:
        seconds = tokenizer.encode_batch([text_at(row, pair) for row in rows])
    extra = len(tokenizer.wrap([], None if pair is None else [])[0])
    room, cut, found = max(1, setting.length - extra), 0, []
    for first, second in zip(firsts, seconds, strict=True):
        kept = _fitted(len(first), len(second or ()), room)
        cut += kept != (len(first), len(second or ()))
        tail = None if second is None else second[: kept[1]]
        tokens, types = tokenizer.wrap(first[: kept[0]], tail)
        found.append(Segment(tokens, types) if tokens else Segment([tokenizer.bos_id], [0]))
    if cut:
        log.warning("%d of %d texts are cut to %d tokens", cut, len(rows), setting.length)
    return found


def _fitted(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each stay, when the longer loses one until both fit."""
    over = first + second - room
    if over <= 0:
        return first, second
    alone = min(over, abs(first - second))
    shared = over - alone
    longer, shorter = max(first, second) - alone, min(first, second)
    longer, shorter = longer - (shared + 1) // 2, shorter - shared // 2
    return (longer, shorter) if first >= second else (shorter, longer)


TEXTS = (
    "text",
    "pair",
    "source",
    "target",
    "question",
    "context",
    "tokens",
    "messages",
    "prompt",
    "chosen",
    "rejected",
)
"""Fields of tasks that name columns of text."""


def texts_of(config: TaskConfig, rows: Sequence[Row]) -> Iterator[str]:
    """All text of rows that a model of this task would read or write: for training a tokenizer."""
    columns = [getattr(config, name) for name in TEXTS if getattr(config, name, None)]
    for row in rows:
        for column in columns:
            yield from _strings(row.values.get(column))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
