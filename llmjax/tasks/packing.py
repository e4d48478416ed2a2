"""Examples packed side by side into rows: which share a row, and the arrays of a row.

Rows have one length, so one program is compiled; an example sees itself alone, so nothing but the
order of sums tells a packed example from one that has the row for itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmjax.data.batch import Arrays, ArraySpec, BatchSpec, per_row, per_token
from llmjax.tasks.examples import Example

OPEN_ROWS = 32
"""How many rows may still be filled at a time."""


@dataclass(frozen=True)
class RowShape:
    """What a row holds.

    Attributes:
      length: tokens.
      source: tokens of the encoder, in an encoder-decoder; else 0.
      slots: examples.
      targets: numbers in an example's target.
      per_token: whether tokens have targets.
    """

    length: int
    source: int
    slots: int
    targets: int
    per_token: bool

    def spec(self, rows: int) -> BatchSpec:
        """What a batch of so many rows holds (see `lay_out`)."""
        numbers = per_token(rows, self.length)
        spec: dict[str, ArraySpec] = dict.fromkeys(
            ("inputs", "segments", "positions", "token_types"), numbers
        )
        if self.per_token:
            spec["targets"] = numbers
            spec["weights"] = per_token(rows, self.length, "float32")
        if self.source:
            names = ("encoder_tokens", "encoder_segments", "encoder_positions")
            spec |= dict.fromkeys(names, per_token(rows, self.source))
        spec["slot_targets"] = per_row(rows, self.slots, self.targets)
        spec["slot_weights"] = per_row(rows, self.slots)
        return spec


def shape_of(examples: Sequence[Example], length: int, *, encodes: bool) -> RowShape:
    """The shape of rows of `length` tokens for such examples, all from one task.

    A row has room for as many examples as it could hold of the shorter ones.
    """
    first = examples[0]
    sizes = [max(example.length, example.source_length, 1) for example in examples]
    short = max(1, int(np.quantile(sizes, 0.25)))
    return RowShape(
        length=length,
        source=length if encodes else 0,
        slots=max(1, min(length // short, len(examples))),
        targets=len(first.target),
        per_token=first.segments[0].targets is not None,
    )


def pack(examples: Sequence[Example], order: Sequence[int], shape: RowShape) -> list[list[int]]:
    """Which examples share a row: in this order, each where the least room is left that does.

    Args:
      examples: none longer than a row.
      order: numbers of examples.
      shape: of the rows.

    Returns:
      Numbers of examples, row by row.
    """
    done: list[list[int]] = []
    rows: list[tuple[int, int, list[int]]] = []  # room, the encoder's room, numbers
    for number in map(int, order):
        size, source = examples[number].length, examples[number].source_length
        fits = [
            (room, index)
            for index, (room, other, held) in enumerate(rows)
            if size <= room and source <= other and len(held) < shape.slots
        ]
        if fits:
            _, index = min(fits)
            room, other, held = rows[index]
            rows[index] = (room - size, other - source, [*held, number])
            continue
        if len(rows) == OPEN_ROWS:
            fullest = min(range(len(rows)), key=lambda index: rows[index][0])
            done.append(rows.pop(fullest)[2])
        rows.append((shape.length - size, shape.source - source, [number]))
    return done + [held for _, _, held in rows]


def lay_out(examples: Sequence[Example], rows: Sequence[Sequence[int]], shape: RowShape) -> Arrays:
    """The arrays of rows. Slot e holds segment e + 1, or of pairs segments 2e + 1 and 2e + 2.

    Args:
      examples: of which the numbers are.
      rows: numbers of examples, for each row.
      shape: of the rows.

    Returns:
      inputs, segments, positions, token_types int32 [R, L]; with targets of tokens also targets
      int32 and weights float32 [R, L]; for an encoder-decoder encoder_tokens, encoder_segments,
      encoder_positions int32 [R, S]; slot_targets float32 [R, E, k], slot_weights float32 [R, E].
    """
    arrays = {name: array.blank(len(rows)) for name, array in shape.spec(len(rows)).items()}
    for row, numbers in enumerate(rows):
        _fill(arrays, row, [examples[number] for number in numbers])
    return arrays


def _fill(arrays: Arrays, row: int, examples: Sequence[Example]) -> None:
    at = source_at = 0
    owner = 0
    for slot, example in enumerate(examples):
        arrays["slot_targets"][row, slot] = example.target
        arrays["slot_weights"][row, slot] = example.weight
        for segment in example.segments:
            owner += 1
            size = len(segment.tokens)
            place = (row, slice(at, at + size))
            arrays["inputs"][place] = segment.tokens
            arrays["segments"][place] = owner
            arrays["positions"][place] = np.arange(size)
            if segment.types is not None:
                arrays["token_types"][place] = segment.types
            if segment.targets is not None:
                arrays["targets"][place] = segment.targets
                arrays["weights"][place] = 1.0 if segment.weights is None else segment.weights
            at += size
            if segment.source is not None:
                given = (row, slice(source_at, source_at + len(segment.source)))
                arrays["encoder_tokens"][given] = segment.source
                arrays["encoder_segments"][given] = owner
                arrays["encoder_positions"][given] = np.arange(len(segment.source))
                source_at += len(segment.source)
