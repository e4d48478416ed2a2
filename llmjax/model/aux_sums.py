"""Named sums that layers report besides their output, such as those of a router."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class AuxSum(NamedTuple):
    """A quantity summed over tokens or layers, each float32 []; all fields add up."""

    total: jax.Array
    """What is reported: total / weight."""
    weight: jax.Array
    penalty: jax.Array
    """What is added to the loss: penalty / weight. Zero for a metric."""


Aux = dict[str, AuxSum]
"""Sums by their names in metrics.jsonl."""


def metric(total: jax.Array, weight: jax.Array) -> AuxSum:
    """A sum that is reported only."""
    return AuxSum(total, weight, jnp.zeros_like(total))


def penalty(total: jax.Array, weight: jax.Array, coefficient: float) -> AuxSum:
    """A sum that is reported, and added to the loss times the coefficient."""
    return AuxSum(total, weight, coefficient * total)


def add_aux(*parts: Aux) -> Aux:
    """Adds up the sums of several layers by name."""
    total: Aux = {}
    for part in parts:
        for name, item in part.items():
            total[name] = AuxSum(*map(jnp.add, total[name], item)) if name in total else item
    return total
