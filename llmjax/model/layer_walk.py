"""The way through a stack's layers: scanned by the period in which they repeat, or written out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from llmjax.model.block import keeping
from llmjax.model.compute import Remat
from llmjax.model.layer_types import LayerType, group_of, layer_pattern
from llmjax.model.layers import ATTENTION, PRODUCT, Aux, add_aux
from llmjax.parallel import mesh

KEPT: dict[Remat, tuple[str, ...]] = {"dots": (ATTENTION, PRODUCT), "full": (ATTENTION,)}
"""What the backward pass of a layer is left with, beside the layer's input, by name."""

UNROLLED = 16
"""Layers up to which a stack is written out on a CPU, where that is faster than a scan."""

Body = Callable[[tuple, tuple, int], tuple[tuple, Aux]]
"""(carry, a layer's parameters and dropout key, its number) -> carry, the layer's sums."""


class LayerWalk(NamedTuple):
    """The way of a carry through the layers of a stack, whose parameters come in groups."""

    body: Body
    types: tuple[LayerType, ...]
    groups: dict[str, tuple[int, ...]]
    remat: Remat

    def through(self, carry: tuple, layers: dict[str, tuple]) -> tuple[tuple, Aux]:
        """Takes the carry through all layers: a scan, which compiles one period of them for all.

        On a CPU a few layers are written out instead: there a scan copies each layer's weights out
        of the stack and its activations into one, which takes a fifth of a training step.
        """
        count, (head, period, repeats) = len(self.types), layer_pattern(self.types)
        if mesh.platform() == "cpu" and count <= UNROLLED:
            head, repeats = count, 0
        end = head + period * repeats
        carry, aux = self._written_out(carry, layers, 0, head)
        if repeats:
            carry, sums = self._scanned(carry, layers, head, period, repeats)
            aux = add_aux(aux, jax.tree.map(lambda x: x.sum(0), sums))
        carry, rest = self._written_out(carry, layers, end, count)
        return carry, add_aux(aux, rest)

    def _scanned(
        self, carry: tuple, layers: dict[str, tuple], head: int, period: int, repeats: int
    ) -> tuple[tuple, Aux]:
        """`repeats` periods of layers from number `head` on; sums have a leading axis of them."""
        places = {name: self._places(name, head, head + period) for name in self.groups}
        periods = {}
        for name, part in layers.items():
            start, end = self._places(name, head, head + period * repeats)
            each = places[name][1] - places[name][0]
            if (each, repeats) != (1, len(self.groups[name])) and each:
                shape = (repeats, each) if each > 1 else (repeats,)
                part = jax.tree.map(
                    lambda leaf, start=start, end=end, shape=shape: leaf[start:end].reshape(
                        *shape, *leaf.shape[1:]
                    ),
                    part,
                )
            if each:
                periods[name] = part

        def whole_period(carry: tuple, layers: dict[str, tuple]) -> tuple[tuple, Aux]:
            aux: Aux = {}
            for number in range(head, head + period):
                name = group_of(self.groups, number)
                start, end = places[name]
                layer, index = layers[name], self.groups[name].index(number) - start
                if end - start > 1:
                    layer = jax.tree.map(lambda leaf, index=index: leaf[index], layer)
                carry, more = self._remat(number, prevent_cse=False)(carry, layer)
                aux = add_aux(aux, more)
            return carry, aux

        return jax.lax.scan(whole_period, carry, periods)

    def _written_out(
        self, carry: tuple, layers: dict[str, tuple], start: int, end: int
    ) -> tuple[tuple, Aux]:
        """The layers from one number to another, each with its own place in the program."""
        aux: Aux = {}
        if start == end:
            return carry, aux
        split: dict[int, Any] = {}
        for name, part in layers.items():
            first, last = self._places(name, start, end)
            if last > first:
                some = jax.tree.map(lambda leaf, a=first, b=last: leaf[a:b], part)
                numbers = self.groups[name][first:last]
                split |= dict(zip(numbers, split_layers(some, last - first), strict=True))
        for number in range(start, end):
            carry, more = self._remat(number, prevent_cse=True)(carry, split[number])
            aux = add_aux(aux, more)
        return carry, aux

    def _places(self, name: str, start: int, end: int) -> tuple[int, int]:
        """Which of a group's layers lie between two numbers: from one place to another."""
        numbers = self.groups[name]
        return sum(n < start for n in numbers), sum(n < end for n in numbers)

    def _remat(
        self, number: int, *, prevent_cse: bool
    ) -> Callable[[tuple, tuple], tuple[tuple, Aux]]:
        """`prevent_cse` where forward and backward pass are one program, which could join them."""

        def one(carry: tuple, layer: tuple) -> tuple[tuple, Aux]:
            return self.body(carry, layer, number)

        if self.remat not in KEPT:
            return one
        policy = keeping(*KEPT[self.remat])
        return jax.checkpoint(one, policy=policy, prevent_cse=prevent_cse)


def split_layers(stacked: Any, count: int) -> list[Any]:
    """Trees of one layer each, out of a tree whose leaves have a leading axis of `count` layers."""
    leaves, tree = jax.tree.flatten(stacked)
    split = [jax.lax.split(leaf, (1,) * count) for leaf in leaves]
    return [
        jax.tree.unflatten(tree, [part[0] for part in parts]) for parts in zip(*split, strict=True)
    ]
