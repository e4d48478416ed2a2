"""Tables of names: which published tensor is which of our parameters, in both directions.

A layout says how a tensor holds a parameter, in a notation for both directions:

    Layout("(h k) d -> d h k")

is a matrix [heads x width, model] that becomes [model, heads, width]. Where a tensor holds several
parameters side by side, an axis consists of segments, of which each parameter takes one:

    Layout("(j h k) d -> d h k", Segment("j", ("1", "1", "1"), 1))   the keys among q, k, v

Axes: v vocabulary, d model (and e, in a square matrix), h heads, n heads of keys and values,
k width of a head, f inner width of the MLP, p positions, t token types, b relative buckets.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from llmjax.convert.tensors import Index, assign
from llmjax.model.config import ModelConfig

Sizes = Mapping[str, int]
"""Axis -> length."""
LAYER = "{layer}"


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """The lengths of all axes."""
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
class Segment:
    """A segment of an axis that several parameters share."""

    axis: str
    lengths: tuple[str, ...]
    """Of all segments: names of axes, or numbers."""
    number: int
    """Which of them."""

    def sizes(self, sizes: Sizes) -> list[int]:
        """The lengths of all segments as numbers."""
        return [sizes[name] if name in sizes else int(name) for name in self.lengths]


@dataclass(frozen=True)
class Layout:
    """How the axes of a published tensor correspond to those of a parameter (or a part of it)."""

    notation: str
    segment: Segment | None = None

    @cached_property
    def tensor_axes(self) -> tuple[tuple[str, ...], ...]:
        """The axes that make up each dimension of the tensor."""
        left = self.notation.partition(" -> ")[0]
        return tuple(tuple(axes.strip("()").split()) for axes in re.findall(r"\(.*?\)|\w+", left))

    @cached_property
    def param_axes(self) -> tuple[str, ...]:
        """The axes of the parameter."""
        return tuple(self.notation.partition(" -> ")[2].split())

    @cached_property
    def _flat(self) -> list[str]:
        """The tensor's axes, one after another."""
        return [axis for axes in self.tensor_axes for axis in axes]

    @cached_property
    def _order(self) -> tuple[str, ...]:
        """The parameter's axes, then those that only the tensor has: of length 1."""
        return (*self.param_axes, *(axis for axis in self._flat if axis not in self.param_axes))

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The tensor's shape."""
        lengths = self._lengths(sizes)
        return tuple(prod(lengths[axis] for axis in axes) for axes in self.tensor_axes)

    def read(
        self, sizes: Sizes, index: Index | None, fetch: Callable[[Index], np.ndarray]
    ) -> np.ndarray:
        """A part of the parameter.

        Args:
          sizes: of the axes.
          index: which part; None for all.
          fetch: returns a part of the tensor; asked for no more than is needed, or little more.
        """
        lengths, ranges = self._lengths(sizes), self._ranges(sizes, index)
        reads = [_dimension_read(axes, lengths, ranges) for axes in self.tensor_axes]
        block = fetch(tuple(read.taken for read in reads))
        block = block.reshape([n for read in reads for n in read.shape])
        block = block[tuple(inner for read in reads for inner in read.inner)]
        wanted = [stop - start for start, stop in (ranges[axis] for axis in self.param_axes)]
        return block.transpose([self._flat.index(axis) for axis in self._order]).reshape(wanted)

    def write(self, sizes: Sizes, param: np.ndarray, out: np.ndarray) -> None:
        """Writes the parameter where it belongs in `out`, the tensor."""
        lengths, ranges = self._lengths(sizes), self._ranges(sizes, None)
        view = out.reshape([lengths[axis] for axis in self._flat])
        place = view[tuple(slice(*ranges[axis]) for axis in self._flat)]
        value = param.reshape(*param.shape, *(1,) * (len(self._order) - len(self.param_axes)))
        assign(place, value.transpose([self._order.index(axis) for axis in self._flat]))

    def _lengths(self, sizes: Sizes) -> dict[str, int]:
        """Lengths of all axes of the tensor."""
        if self.segment is None:
            return dict(sizes)
        return {**sizes, self.segment.axis: sum(self.segment.sizes(sizes))}

    def _ranges(self, sizes: Sizes, index: Index | None) -> dict[str, tuple[int, int]]:
        """The wanted range of each of the tensor's axes."""
        ranges = {axis: (0, sizes[axis]) for axis in self._flat if axis in sizes}
        if self.segment is not None:
            lengths, number = self.segment.sizes(sizes), self.segment.number
            ranges[self.segment.axis] = (sum(lengths[:number]), sum(lengths[: number + 1]))
        if index is not None:
            for axis, wanted in zip(self.param_axes, index, strict=True):
                first, last = ranges[axis]
                start, stop, _ = wanted.indices(last - first)
                ranges[axis] = (first + start, first + stop)
        return ranges


@dataclass(frozen=True)
class _DimensionRead:
    """What to take of a dimension, how that splits into axes, and what to keep of those."""

    taken: slice
    shape: tuple[int, ...]
    inner: tuple[slice, ...]


def _dimension_read(
    axes: tuple[str, ...], sizes: Sizes, ranges: dict[str, tuple[int, int]]
) -> _DimensionRead:
    """As few adjacent elements as hold the wanted ones: outer axes of one element only narrow them
    down, the first longer one is cut, those within it are read whole and cut in memory."""
    offset, stride = 0, prod(sizes[axis] for axis in axes)
    for number, axis in enumerate(axes):
        stride //= sizes[axis]
        start, stop = ranges[axis]
        offset += start * stride
        if stop - start > 1 or number == len(axes) - 1:
            break
    rest = axes[number + 1 :]
    return _DimensionRead(
        slice(offset, offset + (stop - start) * stride),
        ((1,) * number + (stop - start,) + tuple(sizes[axis] for axis in rest)),
        (slice(None),) * (number + 1) + tuple(slice(*ranges[axis]) for axis in rest),
    )


@dataclass(frozen=True)
class NameRow:
    """A parameter and the tensor that holds it."""

    param: str
    """Our path, such as decoder.layers.mlp.up.kernel."""
    tensor: str
    """Its name; with {layer}, one for each layer of our stacked array."""
    layout: Layout
    missing_in: tuple[int, ...] = ()
    """Layers that have no such tensor, and do not use the parameter."""
    only: tuple[str, object] | None = None
    """A field of ModelConfig, and the value without which this row does not apply."""

    def applies(self, config: ModelConfig) -> bool:
        """Whether a model of this config has it."""
        return self.only is None or getattr(config, self.only[0]) == self.only[1]


@dataclass(frozen=True)
class NameTable:
    """The tensors of a family."""

    rows: tuple[NameRow, ...]
    """For every parameter that a model of this family can have; a model has some of them."""
    prefix: str = ""
    """What names begin with; the base model alone is saved without it."""
    renames: tuple[tuple[str, str], ...] = ()
    """Other spellings: regular expressions and their replacements."""
    ignorable: tuple[str, ...] = ()
    """Regular expressions of tensors that hold nothing trained, or serve another task."""
    copies: dict[str, str] = field(default_factory=dict)
    """Tensors that repeat another one, where the model has no parameter for them."""
    fallbacks: dict[str, str] = field(default_factory=dict)
    """Tensor -> the one that it replaces where that is missing."""

    def name(self, name: str, known: Collection[str]) -> str:
        """The table's spelling of a tensor's name, where it is one of `known`."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        prefixed = self.prefix + name
        return prefixed if name not in known and prefixed in known else name
