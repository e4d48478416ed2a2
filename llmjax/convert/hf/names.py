"""Name tables: two-way mappings between published tensors and parameters.

A layout describes how a tensor holds a parameter, in einops-like notation:

    Layout("(h k) d -> d h k")

is a matrix [heads * head_dim, d_model] whose parameter is [d_model, heads, head_dim]. If a tensor
holds several parameters side by side, an axis is divided into segments, one per parameter:

    Layout("(j h k) d -> d h k", Segment("j", ("1", "1", "1"), 1))   the keys of a fused q, k, v

Axes: v vocabulary, d d_model (and e, in a square matrix), h heads, n key/value heads, k head_dim,
f d_ff, p positions, t token types, b relative buckets; of latent attention w width of a value, c
and q widths of compressed keys and queries, g and s a head's dimensions without and with positions;
a experts, m width of an expert, u of the shared one; of linear attention lh key heads, l width of a
key, r value heads of a key head, lw width of a value, y width of a key head's values, lhl and lhy
channels of all key heads' keys and values, z taps of a convolution; i a single number.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from llmjax.convert.tensors import Index, assign
from llmjax.model.config import ModelConfig
from llmjax.model.latent import LatentConfig
from llmjax.model.linear import LinearConfig
from llmjax.model.moe_config import MoEConfig

Sizes = Mapping[str, int]
"""Axis -> length."""
LAYER, EXPERT = "{layer}", "{expert}"
FURTHER = "{further}"
"""In names of tensors: the number of the layer after the last, which predicts tokens after next."""


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """The length of each axis."""
    mla, moe = config.mla or LatentConfig(), config.moe or MoEConfig()
    linear = config.linear or LinearConfig()
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
        "w": config.value_width,
        "c": mla.kv_rank,
        "q": mla.query_rank or 0,
        "g": mla.nope_head_dim,
        "s": mla.rope_head_dim,
        "a": moe.num_experts,
        "m": config.expert_width,
        "u": moe.shared_width,
        "lh": linear.key_heads,
        "l": linear.key_head_dim,
        "r": linear.values_per_key,
        "lw": linear.value_head_dim,
        "y": linear.group_width,
        "lhl": linear.key_heads * linear.key_head_dim,
        "lhy": linear.key_heads * linear.group_width,
        "z": linear.conv_width,
        "i": 1,
    }


@dataclass(frozen=True)
class Segment:
    """One parameter's segment of an axis that several parameters share."""

    axis: str
    lengths: tuple[str, ...]
    """Lengths of all segments: names of axes, or numbers."""
    number: int
    """Index of this segment."""

    def sizes(self, sizes: Sizes) -> list[int]:
        """The lengths of all segments, as numbers."""
        return [sizes[name] if name in sizes else int(name) for name in self.lengths]


@dataclass(frozen=True)
class Layout:
    """How the axes of a published tensor map to those of a parameter, or of one layer of it."""

    notation: str
    segment: Segment | None = None

    @cached_property
    def tensor_axes(self) -> tuple[tuple[str, ...], ...]:
        """The axes merged into each dimension of the tensor."""
        left = self.notation.partition(" -> ")[0]
        return tuple(tuple(axes.strip("()").split()) for axes in re.findall(r"\(.*?\)|\w+", left))

    @cached_property
    def param_axes(self) -> tuple[str, ...]:
        """The axes of the parameter."""
        return tuple(self.notation.partition(" -> ")[2].split())

    @cached_property
    def _flat(self) -> list[str]:
        """The tensor's axes, flattened."""
        return [axis for axes in self.tensor_axes for axis in axes]

    @cached_property
    def _order(self) -> tuple[str, ...]:
        """The parameter's axes, then those of only the tensor, which have length 1."""
        return (*self.param_axes, *(axis for axis in self._flat if axis not in self.param_axes))

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The tensor's shape."""
        lengths = self._lengths(sizes)
        return tuple(prod(lengths[axis] for axis in axes) for axes in self.tensor_axes)

    def read(
        self, sizes: Sizes, index: Index | None, fetch: Callable[[Index], np.ndarray]
    ) -> np.ndarray:
        """Read the parameter, or a part of it.

        Args:
          sizes: lengths of the axes.
          index: the part; None for all.
          fetch: reads a part of the tensor; called with little more than what is needed.
        """
        lengths, ranges = self._lengths(sizes), self._ranges(sizes, index)
        reads = [_dimension_read(axes, lengths, ranges) for axes in self.tensor_axes]
        block = fetch(tuple(read.source for read in reads))
        block = block.reshape([n for read in reads for n in read.shape])
        block = block[tuple(part for read in reads for part in read.parts)]
        shape = [stop - start for start, stop in (ranges[axis] for axis in self.param_axes)]
        return block.transpose([self._flat.index(axis) for axis in self._order]).reshape(shape)

    def write(self, sizes: Sizes, param: np.ndarray, out: np.ndarray) -> None:
        """Write the parameter into its part of `out`, the tensor."""
        lengths, ranges = self._lengths(sizes), self._ranges(sizes, None)
        view = out.reshape([lengths[axis] for axis in self._flat])
        target = view[tuple(slice(*ranges[axis]) for axis in self._flat)]
        value = param.reshape(*param.shape, *(1,) * (len(self._order) - len(self.param_axes)))
        assign(target, value.transpose([self._order.index(axis) for axis in self._flat]))

    def _lengths(self, sizes: Sizes) -> dict[str, int]:
        """The lengths of the tensor's axes."""
        if self.segment is None:
            return dict(sizes)
        return {**sizes, self.segment.axis: sum(self.segment.sizes(sizes))}

    def _ranges(self, sizes: Sizes, index: Index | None) -> dict[str, tuple[int, int]]:
        """The range to read of each of the tensor's axes, as (start, stop)."""
        ranges = {axis: (0, sizes[axis]) for axis in self._flat if axis in sizes}
        if self.segment is not None:
            lengths, number = self.segment.sizes(sizes), self.segment.number
            ranges[self.segment.axis] = (sum(lengths[:number]), sum(lengths[: number + 1]))
        if index is not None:
            for axis, part in zip(self.param_axes, index, strict=True):
                first, last = ranges[axis]
                start, stop, _ = part.indices(last - first)
                ranges[axis] = (first + start, first + stop)
        return ranges


@dataclass(frozen=True)
class _DimensionRead:
    """How to read a dimension.

    Attributes:
      source: the slice of the tensor.
      shape: of the slice, split into axes.
      parts: what to keep of each axis.
    """

    source: slice
    shape: tuple[int, ...]
    parts: tuple[slice, ...]


def _dimension_read(
    axes: tuple[str, ...], sizes: Sizes, ranges: dict[str, tuple[int, int]]
) -> _DimensionRead:
    """The shortest contiguous read that covers the ranges: up to the first axis with more than one
    element, ranges narrow the read; axes inside that one are read completely and cut in memory."""
    offset, stride = 0, prod(sizes[axis] for axis in axes)
    for number, axis in enumerate(axes):
        stride //= sizes[axis]
        start, stop = ranges[axis]
        offset += start * stride
        if stop - start > 1 or number == len(axes) - 1:
            break
    inner = axes[number + 1 :]
    return _DimensionRead(
        slice(offset, offset + (stop - start) * stride),
        ((1,) * number + (stop - start,) + tuple(sizes[axis] for axis in inner)),
        (slice(None),) * (number + 1) + tuple(slice(*ranges[axis]) for axis in inner),
    )


@dataclass(frozen=True)
class NameRow:
    """A parameter and the tensor that holds it."""

    param: str
    """The parameter's path, such as decoder.layers.mlp.up.kernel."""
    tensor: str
    """The tensor's name; with {layer}, one tensor per layer of the stacked parameter, and with
    {expert} one per expert."""
    layout: Layout
    missing_in: tuple[int, ...] = ()
    """Layers without this tensor, which do not use the parameter."""
    only: tuple[str, object] | None = None
    """(field of ModelConfig, value): the row applies only to models with this value."""

    def applies(self, config: ModelConfig) -> bool:
        """Whether the row applies to models of this config."""
        return self.only is None or getattr(config, self.only[0]) == self.only[1]


@dataclass(frozen=True)
class NameTable:
    """The tensors of a family."""

    rows: tuple[NameRow, ...]
    """One for every parameter that a model of this family can have."""
    prefix: str = ""
    """Prefix of the base model's tensors; saved alone, the base model lacks it."""
    renames: tuple[tuple[str, str], ...] = ()
    """Alternative spellings: regular expressions and their replacements."""
    ignorable: tuple[str, ...] = ()
    """Regular expressions of tensors to ignore: not trained, or for another task."""
    further_layers: bool = False
    """Whether to ignore layers after the last, which predict tokens after next, unless the model
    has them."""
    further_copies: dict[str, str] = field(default_factory=dict)
    """As `copies`, of models with such a layer, whose files are written with these copies."""
    copies: dict[str, str] = field(default_factory=dict)
    """Tensor without a parameter in the model -> the tensor that it must equal."""
    fallbacks: dict[str, str] = field(default_factory=dict)
    """Tensor -> the tensor that it replaces if that is missing."""

    def is_ignored(self, name: str, layers: int) -> bool:
        """Whether a tensor is none of a model of so many layers, and to be ignored."""
        layer = re.search(r"\.layers\.(\d{1,6})\.", name) if self.further_layers else None
        if layer and int(layer.group(1)) >= layers:
            return True
        return any(re.search(pattern, name) for pattern in self.ignorable)

    def copies_of(self, config: ModelConfig) -> dict[str, str]:
        """Tensor of such a layer -> the tensor that it is a copy of; {} if the model has none."""
        number = str(config.num_decoder_layers)
        further = self.further_copies if config.multi_token else {}
        return {name.replace(FURTHER, number): original for name, original in further.items()}

    def name(self, name: str, known: Collection[str]) -> str:
        """Normalize a tensor's name, adding the prefix if only that makes it one of `known`."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        prefixed = self.prefix + name
        return prefixed if name not in known and prefixed in known else name
