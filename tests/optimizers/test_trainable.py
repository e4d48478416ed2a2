"""Learning rate multipliers in stacks whose layers have several widths."""

from dataclasses import replace

import numpy as np
import pytest

import tiny
from llmjax.model.model import Model
from llmjax.optimizers.trainable import TrainAll, TrainByPattern, lr_multipliers

WIDTHS = (48, 16, 16, 32)
ONE_WIDTH = Model(replace(tiny.MODEL.config, num_decoder_layers=4))
MANY_WIDTHS = Model(replace(ONE_WIDTH.config, layer_d_ff=WIDTHS))
NUMBERS = {"layers_48": [0], "layers_16": [1, 2], "layers_32": [3]}


def kernels(tune, model) -> dict[str, np.ndarray]:
    """Group -> the factor of each layer's kernel."""
    stack = lr_multipliers(tune, model.config, model.abstract_params())["decoder"]
    groups = {name: part for name, part in stack.items() if name.startswith("layers")}
    return {name: np.ravel(part["mlp"]["up"]["kernel"]) for name, part in groups.items()}


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        (TrainAll(layer_decay=0.5), [0.0625, 0.125, 0.25, 0.5]),
        (TrainByPattern(("decoder.layers.1.*", "*.3.mlp.*")), [0.0, 1.0, 0.0, 1.0]),
    ],
    ids=["decay", "pattern"],
)
def test_layers_count_through_the_stack_whatever_their_widths(tune, expected):
    np.testing.assert_array_equal(kernels(tune, ONE_WIDTH)["layers"], expected)
    factors = kernels(tune, MANY_WIDTHS)
    assert factors.keys() == NUMBERS.keys()
    for group, numbers in NUMBERS.items():
        np.testing.assert_array_equal(factors[group], np.array(expected)[numbers])
