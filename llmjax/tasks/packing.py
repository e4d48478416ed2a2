"""Packing of examples into rows: which examples share a row, and the arrays of a row.

All rows have the same length, so one program is compiled. Examples attend only to themselves, so
packing changes results by rounding alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmjax.data.batch import Arrays, ArraySpec, BatchSpec, per_row, per_token
from llmjax.tasks.examples import Example

OPEN_ROWS = 32
"""Maximum number of unfilled rows while packing."""


@dataclass(frozen=True)
class RowShape:
    """The shape of a packed row.

    Attributes:
      length: tokens.
      source: encoder tokens of an encoder-decoder, else 0.
      slots: maximum number of examples.
      targets: size of an example's target.
      per_token: whether tokens have targets.
    """

    length: int
    source: int
    slots: int
    targets: int
    per_token: bool

    def spec(self, rows: int) -> BatchSpec:
        """Return the arrays of a batch of `rows` rows (see `lay_out`)."""
        tokens = per_token(rows, self.length)
        spec: dict[str, ArraySpec] = dict.fromkeys(
            ("inputs", "segments", "positions", "token_types"), tokens
        )
        if self.per_token:
            spec["targets"] = tokens
            spec["weights"] = per_token(rows, self.length, "float32")
        if self.source:
            names = ("encoder_tokens", "encoder_segments", "encoder_positions")
            spec |= dict.fromkeys(names, per_token(rows, self.source))
        spec["slot_targets"] = per_row(rows, self.slots, self.targets)
        spec["slot_weights"] = per_row(rows, self.slots)
        return spec


def shape_of(examples: Sequence[Example], length: int, *, encodes: bool) -> RowShape:
    """Return the shape of rows of `length` tokens for the examples of one task.

    The number of slots is how many examples of the 25th percentile length fit in a row.
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
    """Assign examples to rows: best fit, in the given order.

    Args:
      examples: none longer than a row.
      order: indices of examples.
      shape: of the rows.

    Returns:
      Indices of examples, row by row.
    """
    done: list[list[int]] = []
    rows: list[tuple[int, int, list[int]]] = []  # free tokens, free encoder tokens, indices
    for number in map(int, order):
        size, source = examples[number].length, examples[number].source_length
        fits = [
            (free, index)
            for index, (free, free_source, packed) in enumerate(rows)
            if size <= free and source <= free_source and len(packed) < shape.slots
        ]
        if fits:
            _, index = min(fits)
            free, free_source, packed = rows[index]
            rows[index] = (free - size, free_source - source, [*packed, number])
            continue
        if len(rows) == OPEN_ROWS:
            fullest = min(range(len(rows)), key=lambda index: rows[index][0])
            done.append(rows.pop(fullest)[2])
        rows.append((shape.length - size, shape.source - source, [number]))
    return done + [packed for _, _, packed in rows]


def lay_out(examples: Sequence[Example], rows: Sequence[Sequence[int]], shape: RowShape) -> Arrays:
    """Fill the arrays of packed rows.

    Slot e has segment e + 1, or for pairs segments 2e + 1 and 2e + 2.

    Args:
      examples: all examples.
      rows: indices of examples, for each row.
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
    start = source_start = owner = 0
    for slot, example in enumerate(examples):
        arrays["slot_targets"][row, slot] = example.target
        arrays["slot_weights"][row, slot] = example.weight
        for segment in example.segments:
            owner += 1
            size = len(segment.tokens)
            tokens = (row, slice(start, start + size))
            arrays["inputs"][tokens] = segment.tokens
            arrays["segments"][tokens] = owner
            arrays["positions"][tokens] = np.arange(size)
            if segment.types is not None:
                arrays["token_types"][tokens] = segment.types
            if segment.targets is not None:
                arrays["targets"][tokens] = segment.targets
                arrays["weights"][tokens] = 1.0 if segment.weights is None else segment.weights
            start += size
            if segment.source is not None:
                size = len(segment.source)
                source = (row, slice(source_start, source_start + size))
                arrays["encoder_tokens"][source] = segment.source
                arrays["encoder_segments"][source] = owner
                arrays["encoder_positions"][source] = np.arange(size)
                source_start += size
