"""What sets the layers of a stack unstacked, and the layer_pattern in which that comes back.

All layers of a stack have parameters of the same shapes, stacked. They may differ in what is known
while tracing: whether they have a window, how they rotate, whether the first one normalises.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from llmjax.model.config import ModelConfig
from llmjax.model.rope import Unscaled, frequencies


class LayerType(NamedTuple):
    """What one layer is told, beside its parameters."""

    window: int | None
    """As `Mask.window`."""
    rotates: bool
    """Whether queries and keys are rotated."""
    normalises: bool
    """Whether there is a norm before the attention."""


class LayerPattern(NamedTuple):
    """Layers `head`, then whole repetitions of `period`, then what is left of one."""

    head: int
    period: int
    repeats: int


def layer_types(config: ModelConfig, layers: int) -> tuple[LayerType, ...]:
    """The kind of each layer of a stack, the first one first."""
    return tuple(
        LayerType(
            window=None if layer in config.global_layers else config.window,
            rotates=config.positions == "rotary" and layer not in config.unrotated_layers,
            normalises=config.first_norm or layer > 0,
        )
        for layer in range(layers)
    )


@cache
def layer_pattern(kinds: tuple[LayerType, ...]) -> LayerPattern:
    """A head, and a repeated period after it, that leave the fewest layers to write out."""
    count = len(kinds)

    def repeats(head: int, period: int) -> bool:
        return kinds[head : count - period] == kinds[head + period :]

    pairs = ((h, p) for h in range(count) for p in range(1, count - h + 1) if repeats(h, p))
    head, period = min(pairs, key=lambda pair: (pair[0] + pair[1], pair[0]))
    return LayerPattern(head, period, (count - head) // period)


@cache
def turns_of(config: ModelConfig, kind: LayerType) -> tuple[np.ndarray, float]:
    """Frequencies and factor of a layer that rotates, see `rope.frequencies`."""
    scaling, theta = config.rope_scaling, config.rope_theta
    if kind.window is not None and config.window_rope_theta is not None:
        scaling, theta = Unscaled(), config.window_rope_theta
    return frequencies(scaling, theta, config.rotated_width, config.max_length)
