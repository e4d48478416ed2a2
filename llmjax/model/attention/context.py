"""Context parallelism: how attention sees keys that other devices hold.

Where n devices split rows along their length, each layer's self-attention moves, per device and
token of its part of the rows, this many elements of a head's width, forward and backward, for H
query heads and N key heads of the device (those of the model divided by tensor parallelism):

- gather: 2 N (n - 1) keys and values of the others; their gradients are scattered in float32.
- ring: as many forward, and again backward, and 2 N n gradients in float32: a little more, but
  beside products, and no device holds more than two devices' keys, where a gather holds all.
- all_to_all (DeepSpeed Ulysses, arXiv:2309.14509): queries, keys, values and outputs are exchanged,
  (2 H + 2 M) (n - 1) / n forward and again backward, with M = max(N, n), since each device needs a
  key head; queries, keys and values once more where the backward pass recomputes them. Then each
  device has whole rows of some heads, and runs the usual kernel.

So the exchange moves less where n is large and there are nearly as many key heads as query heads,
and no less where few key heads serve many queries: for 32 query heads, 8 key heads and bfloat16, it
does from n = 4. It needs n to divide the query heads, and to divide the key heads or be a multiple.
"""

from dataclasses import replace
from typing import NamedTuple

from llmjax.errors import UserError
from llmjax.model.compute import ComputeConfig, ContextMethod
from llmjax.model.config import ModelConfig
from llmjax.model.layers import TRAIN, ActivationSharding
from llmjax.parallel import mesh


class Part(NamedTuple):
    """What a device has of a layer's attention."""

    devices: int
    """n, which split rows along their length."""
    heads: int
    """H."""
    kv_heads: int
    """N."""
    itemsize: int
    """Bytes of an element of queries, keys and values."""
    recomputes: bool
    """Whether the backward pass computes them again."""

    def divides(self) -> bool:
        """Whether heads divide over the devices, so that lengths can be exchanged for them."""
        n, kv_heads = self.devices, self.kv_heads
        return self.heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)

    def bytes_moved(self, method: ContextMethod) -> float:
        """Bytes that a device sends per token of its rows and element of a head, in a step."""
        n, width = self.devices, self.itemsize
        if method == "gather":
            return 2 * self.kv_heads * (n - 1) * (width * (1 + self.recomputes) + 4)
        if method == "ring":
            return 2 * self.kv_heads * (2 * (n - 1) * width + 4 * n)
        keys = max(self.kv_heads, n)
        both_ways = 2 * (2 * self.heads + 2 * keys)
        again = (self.heads + 2 * keys) * self.recomputes
        return (both_ways + again) * width * (n - 1) / n


def sharding_of(
    config: ModelConfig, compute: ComputeConfig, length: int, *, causal: bool
) -> ActivationSharding:
    """How a stack's activations of rows of this length are split over the current mesh.

    Raises:
      UserError: the method that the config names does not compute this model.
    """
    devices = mesh.parts("length") if mesh.has_shardings() else 1
    if devices == 1:
        return TRAIN
    method = _method(config, compute, devices)
    zigzag = method == "ring" and causal and length // devices % 2 == 0
    return replace(TRAIN, context=method, zigzag=zigzag)


def _method(config: ModelConfig, compute: ComputeConfig, devices: int) -> ContextMethod:
    tensor, chosen = mesh.parts("heads"), compute.context_parallel
    part = Part(
        devices,
        config.num_heads // tensor,
        config.kv_heads // tensor,
        2 if compute.dtype == "bfloat16" else 4,
        compute.recomputes_layers,
    )
    biased = config.positions == "relative"  # scores have a bias of [length, length] anyway
    if chosen == "auto":
        if biased:
            return "gather"
        sends_less = part.bytes_moved("all_to_all") <= part.bytes_moved("ring")
        return "all_to_all" if part.divides() and sends_less else "ring"
    if biased and chosen != "gather":
        reason = "relative positions add a bias, which needs all keys of a row"
        raise UserError(f"compute.context_parallel {chosen}", reason, "choose gather or auto")
    if chosen == "all_to_all" and not part.divides():
        raise UserError(
            "compute.context_parallel all_to_all",
            f"mesh.sequence={devices} does not divide {part.heads} query heads and {part.kv_heads} "
            f"key heads of a device, the model's over mesh.tensor={tensor}",
            "choose ring or auto",
        )
    return chosen
