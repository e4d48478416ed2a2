"""Tables of names: which tensor of theirs is which parameter of ours, in both directions."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from llmjax.convert.tensors import Index, assign
from llmjax.model.config import ModelConfig

Sizes = Mapping[str, int]


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """How long each axis is."""
    return {
        "v": config.vocab_size,
        "d": config.d_model,
        "e": config.d_model,
        "h": config.num_heads,
        "n": config.kv_heads,
        "k": config.head_width,
        "f": config.mlp_width,
        "p": config.max_length + config.first_position,
        "t": config.token_types,
        "b": config.relative_buckets,
    }


@dataclass(frozen=True)
class Part:
    """One segment of an axis that several parameters share."""

    axis: str
    segments: tuple[str, ...]
    """Their lengths: names of axes, or numbers."""
    number: int
    """Which of them."""

    def lengths(self, sizes: Sizes) -> list[int]:
        """Of all segments."""
        return [sizes[name] if name in sizes else int(name) for name in self.segments]


@dataclass(frozen=True)
class Layout:
    """A correspondence between the axes of two arrays of the same elements (or a part of them)."""

    notation: str
    part: Part | None = None

    @cached_property
    def theirs(self) -> tuple[tuple[str, ...], ...]:
        """The axes that make up each dimension of their tensor."""
        left = self.notation.partition(" -> ")[0]
        return tuple(tuple(found.strip("()").split()) for found in re.findall(r"\(.*?\)|\w+", left))

    @cached_property
    def ours(self) -> tuple[str, ...]:
        """The axes of our array."""
        return tuple(self.notation.partition(" -> ")[2].split())

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Our axes, and then those of theirs that we do not have: of length 1."""
        flat = [axis for axes in self.theirs for axis in axes]
        return (*self.ours, *(axis for axis in flat if axis not in self.ours))

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Of their tensor."""
        known = self._known(sizes)
        return tuple(prod(known[axis] for axis in axes) for axes in self.theirs)

    def our_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Of our array."""
        ranges = self._ranges(sizes, None)
        return tuple(stop - start for start, stop in (ranges[axis] for axis in self.ours))

    def read(
        self, sizes: Sizes, index: Index | None, fetch: Callable[[Index], np.ndarray]
    ) -> np.ndarray:
        """A part of our array.

        Args:
          sizes: of the axes.
          index: which part; None for all.
          fetch: returns a part of their tensor; asked for no more than is needed, or little more.
        """
        known, ranges = self._known(sizes), self._ranges(sizes, index)
        windows = [_window(axes, known, ranges) for axes in self.theirs]
        block = fetch(tuple(window.taken for window in windows))
        block = block.reshape([n for window in windows for n in window.shape])
        block = block[tuple(inner for window in windows for inner in window.inner)]
        flat = [axis for axes in self.theirs for axis in axes]
        wanted = [stop - start for start, stop in (ranges[axis] for axis in self.ours)]
        return block.transpose([flat.index(axis) for axis in self.order]).reshape(wanted)

    def write(self, sizes: Sizes, ours: np.ndarray, out: np.ndarray) -> None:
        """Writes our array where it belongs in `out`, their tensor."""
        known, ranges = self._known(sizes), self._ranges(sizes, None)
        flat = [axis for axes in self.theirs for axis in axes]
        view = out.reshape([known[axis] for axis in flat])
        place = view[tuple(slice(*ranges[axis]) for axis in flat)]
        added = (1,) * (len(self.order) - len(self.ours))
        value = ours.reshape(*ours.shape, *added)
        assign(place, value.transpose([self.order.index(axis) for axis in flat]))

    def _known(self, sizes: Sizes) -> dict[str, int]:
        """Sizes of all axes of their tensor."""
        if self.part is None:
            return dict(sizes)
        return {**sizes, self.part.axis: sum(self.part.lengths(sizes))}

    def _ranges(self, sizes: Sizes, index: Index | None) -> dict[str, tuple[int, int]]:
        """Which part of each of their axes is wanted."""
        ranges = {axis: (0, sizes[axis]) for axes in self.theirs for axis in axes if axis in sizes}
        if self.part is not None:
            lengths, number = self.part.lengths(sizes), self.part.number
            ranges[self.part.axis] = (sum(lengths[:number]), sum(lengths[: number + 1]))
        if index is not None:
            for axis, wanted in zip(self.ours, index, strict=True):
                first, last = ranges[axis]
                start, stop, _ = wanted.indices(last - first)
                ranges[axis] = (first + start, first + stop)
        return ranges


@dataclass(frozen=True)
class _Window:
    """What to take of one dimension, how it then splits into axes, and what to keep of those."""

    taken: slice
    shape: tuple[int, ...]
    inner: tuple[slice, ...]


def _window(axes: tuple[str, ...], sizes: Sizes, ranges: dict[str, tuple[int, int]]) -> _Window:
    """As few neighbouring elements as hold the wanted ones: outer axes of one element only narrow
    them down, the first longer one is cut, those within it are read whole and cut in memory."""
    offset, stride = 0, prod(sizes[axis] for axis in axes)
    for number, axis in enumerate(axes):
        stride //= sizes[axis]
        start, stop = ranges[axis]
        offset += start * stride
        if stop - start > 1 or number == len(axes) - 1:
            break
    rest = axes[number + 1 :]
    return _Window(
        slice(offset, offset + (stop - start) * stride),
        ((1,) * number + (stop - start,) + tuple(sizes[axis] for axis in rest)),
        (slice(None),) * (number + 1) + tuple(slice(*ranges[axis]) for axis in rest),
    )


LAYER = "{layer}"


@dataclass(frozen=True)
class Row:
    """A parameter and the tensor that holds it."""

    leaf: str
    """Path of ours, such as decoder.layers.mlp.up.kernel."""
    name: str
    """Of the tensor; with {layer}, one for each layer of our stacked array."""
    layout: Layout
    missing_in: tuple[int, ...] = ()
    """Layers that have no such tensor, and do not use ours."""
    only: tuple[str, object] | None = None
    """A field of ModelConfig, and the value without which this row does not count."""

    def counts(self, config: ModelConfig) -> bool:
        """Whether it counts in a model of this config."""
        return self.only is None or getattr(config, self.only[0]) == self.only[1]


@dataclass(frozen=True)
class NameTable:
    """All that is known of a family's tensors."""

    rows: tuple[Row, ...]
    """For every parameter that a model of this family can have; a model has some of them."""
    prefix: str = ""
    """What names begin with; the base model alone is saved without it."""
    renames: tuple[tuple[str, str], ...] = ()
    """Other spellings: regular expressions, and what is written instead."""
    ignorable: tuple[str, ...] = ()
    """Regular expressions of tensors that hold nothing learned, or serve another task."""
    copies: dict[str, str] = field(default_factory=dict)
    """Tensors that only repeat another, where the model has no parameter for them."""
    stand_ins: dict[str, str] = field(default_factory=dict)
    """Tensors that count only where another one is missing."""


def canonical(table: NameTable, name: str, known: Collection[str]) -> str:
    """The table's spelling of a tensor's name, where it is one of `known`."""
    for pattern, instead in table.renames:
        name = re.sub(pattern, instead, name)
    return table.prefix + name if name not in known and table.prefix + name in known else name
