"""A stack as a pattern of layer types, and the shortest period in which it repeats.

Layers may differ in what is known while tracing (window, rotation, the first norm) and in the
shapes of their parameters (the width of the MLP). Those with parameters of the same shapes are
stacked together, as one group of the stack.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from llmjax.model.config import ModelConfig
from llmjax.model.rope import Unscaled, rope_frequencies


class LayerType(NamedTuple):
    """What sets one layer of a stack apart from the others."""

    window: int | None
    """As `Mask.window`; None: attention is global."""
    rotates: bool
    """Whether queries and keys are rotated."""
    normalises: bool
    """Whether there is a norm before the attention."""
    mlp_width: int
    """Inner width of the MLP."""


class LayerPattern(NamedTuple):
    """Layers `head`, then whole repetitions of `period`, then what is left of one."""

    head: int
    period: int
    repeats: int


def layer_types(config: ModelConfig, layers: int) -> tuple[LayerType, ...]:
    """The type of each layer of a stack, the first one first."""
    return tuple(
        LayerType(
            window=None if layer in config.global_layers else config.window,
            rotates=config.positions == "rotary" and layer not in config.unrotated_layers,
            normalises=config.first_norm or layer > 0,
            mlp_width=config.layer_d_ff[layer] if config.layer_d_ff else config.mlp_width,
        )
        for layer in range(layers)
    )


@cache
def layer_pattern(types: tuple[LayerType, ...]) -> LayerPattern:
    """A head, and a repeated period after it, that leave the fewest layers to write out."""
    count = len(types)

    def repeats(head: int, period: int) -> bool:
        return types[head : count - period] == types[head + period :]

    pairs = ((h, p) for h in range(count) for p in range(1, count - h + 1) if repeats(h, p))
    head, period = min(pairs, key=lambda pair: (pair[0] + pair[1], pair[0]))
    return LayerPattern(head, period, (count - head) // period)


def layer_groups(types: Sequence[LayerType]) -> dict[str, tuple[int, ...]]:
    """Name of each group of layers whose parameters have the same shapes -> their numbers.

    The name is "layers" where there is one group, else "layers_" and the MLP's width.
    """
    widths = list(dict.fromkeys(layer.mlp_width for layer in types))
    if len(widths) == 1:
        return {"layers": tuple(range(len(types)))}
    return {
        f"layers_{width}": tuple(i for i, layer in enumerate(types) if layer.mlp_width == width)
        for width in widths
    }


def group_of(groups: Mapping[str, Sequence[int]], number: int) -> str:
    """The name of the group that a layer belongs to."""
    return next(name for name, numbers in groups.items() if number in numbers)


def stacked_layers(config: ModelConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    """("encoder" or "decoder", name of a group of its layers) -> their numbers."""
    stacks = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
    return {
        (stack, group): numbers
        for stack, layers in stacks.items()
        for group, numbers in layer_groups(layer_types(config, layers)).items()
    }


def is_group(name: str) -> bool:
    """Whether parameters of this name in a stack are those of a group of its layers."""
    return name.split("_")[0] == "layers"


@cache
def layer_frequencies(config: ModelConfig, kind: LayerType) -> tuple[np.ndarray, float]:
    """Frequencies and factor of a layer that rotates, see `rope.rope_frequencies`."""
    scaling, theta = config.rope_scaling, config.rope_theta
    if kind.window is not None and config.window_rope_theta is not None:
        scaling, theta = Unscaled(), config.window_rope_theta
    return rope_frequencies(scaling, theta, config.rotated_width, config.max_length)
