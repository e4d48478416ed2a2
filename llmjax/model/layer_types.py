"""The layer types of a stack, and the shortest pattern in which they repeat.

Layers may differ in static properties (window, rotation, first norm), in their parameters (of
linear attention or of softmax attention) and in the shapes of these (MLP width). Layers with equal
shapes are stacked together as a group.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from llmjax.model.config import ModelConfig
from llmjax.model.rope import (
    LongRopeScaling,
    RopeScaling,
    Unscaled,
    rope_frequencies,
    short_frequencies,
)


class LayerType(NamedTuple):
    """What may differ between the layers of a stack."""

    window: int | None
    """As `Mask.window`; None: attention is global."""
    rotates: bool
    """Whether queries and keys are rotated."""
    attention_norm: bool
    """Whether there is a norm before the attention."""
    mlp_width: int
    """Inner width of the MLP; 0 if it is sparse."""
    is_sparse: bool
    """Whether a mixture of experts takes the place of the MLP."""
    is_linear: bool = False
    """Whether linear attention takes the place of attention."""
    in_chunks: bool = False
    """Whether the window is that of a chunk."""


class LayerPattern(NamedTuple):
    """`head` layers, then `repeats` of `period` layers, then a part of a period."""

    head: int
    period: int
    repeats: int


def layer_types(config: ModelConfig, layers: int) -> tuple[LayerType, ...]:
    """Returns the type of each layer of a stack, in order."""
    sparse = set() if config.moe is None else set(range(layers)) - set(config.moe.dense_layers)
    widths = config.layer_d_ff or (config.mlp_width,) * layers
    return tuple(
        LayerType(
            window=None if layer in config.global_layers else config.window,
            rotates=config.positions == "rotary" and layer not in config.unrotated_layers,
            attention_norm=config.first_norm or layer > 0,
            mlp_width=0 if layer in sparse else widths[layer],
            is_sparse=layer in sparse,
            is_linear=layer in config.linear_layers,
            in_chunks=config.window_chunks and layer not in config.global_layers,
        )
        for layer in range(layers)
    )


@cache
def layer_pattern(types: tuple[LayerType, ...]) -> LayerPattern:
    """Finds the head and period with the fewest layers to compile."""
    count = len(types)

    def repeats(head: int, period: int) -> bool:
        return types[head : count - period] == types[head + period :]

    pairs = ((h, p) for h in range(count) for p in range(1, count - h + 1) if repeats(h, p))
    head, period = min(pairs, key=lambda pair: (pair[0] + pair[1], pair[0]))
    return LayerPattern(head, period, (count - head) // period)


def layer_groups(types: Sequence[LayerType]) -> dict[str, tuple[int, ...]]:
    """Groups layers with equal parameter shapes: name -> layer numbers.

    The name is "layers" if there is one group, else "layers_" and the MLP's width, or
    "layers_sparse"; with linear attention, "layers_linear_" instead.
    """
    names = [
        "linear_" * layer.is_linear + ("sparse" if layer.is_sparse else str(layer.mlp_width))
        for layer in types
    ]
    if len(set(names)) == 1:
        return {"layers": tuple(range(len(types)))}
    return {
        f"layers_{name}": tuple(i for i, other in enumerate(names) if other == name)
        for name in dict.fromkeys(names)
    }


def group_of(groups: Mapping[str, Sequence[int]], number: int) -> str:
    """Returns the name of a layer's group."""
    return next(name for name, numbers in groups.items() if number in numbers)


def stacked_layers(config: ModelConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns ("encoder" or "decoder", name of a group) -> layer numbers."""
    stacks = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
    return {
        (stack, group): numbers
        for stack, layers in stacks.items()
        for group, numbers in layer_groups(layer_types(config, layers)).items()
    }


def is_group(name: str) -> bool:
    """Whether a name in a stack's parameters is that of a group of layers."""
    return name.split("_")[0] == "layers"


@cache
def layer_frequencies(config: ModelConfig, layer_type: LayerType) -> tuple[np.ndarray, float]:
    """`rope_frequencies` of a layer with rotary positions."""
    return rope_frequencies(*_rotation(config, layer_type))


@cache
def layer_short_frequencies(config: ModelConfig, layer_type: LayerType) -> np.ndarray | None:
    """`short_frequencies` of a layer with rotary positions."""
    return short_frequencies(*_rotation(config, layer_type))


def _rotation(config: ModelConfig, layer_type: LayerType) -> tuple[RopeScaling, float, int, int]:
    """Scaling, base, rotated width and longest text of a layer."""
    scaling, theta = config.rope_scaling, config.rope_theta
    if layer_type.window is not None and config.window_rope_theta is not None:
        scaling, theta = Unscaled(), config.window_rope_theta
    return scaling, theta, config.rotated_width, config.max_length


def longest_short_text(config: ModelConfig) -> int | None:
    """Length of texts beyond which positions rotate by other frequencies; None: there is none."""
    scaling = config.rope_scaling
    if config.positions != "rotary" or not isinstance(scaling, LongRopeScaling):
        return None
    by_text = scaling.by_length and config.max_length > scaling.original_length
    return scaling.original_length if by_text else None
