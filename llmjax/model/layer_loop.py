"""The loop over a stack's layers: a scan over repeated periods, or unrolled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from llmjax.model.aux_sums import Aux, add_aux
from llmjax.model.layer_types import LayerType, group_of, layer_pattern
from llmjax.model.remat import Policy
from llmjax.parallel import mesh

MAX_UNROLLED = 16
"""Layers up to which a stack is unrolled on a CPU, where that is faster than a scan."""

Body = Callable[[tuple, tuple, int], tuple[tuple, Aux]]
"""(carry, (a layer's parameters, dropout key), its number) -> (carry, the layer's sums)."""


class LayerLoop(NamedTuple):
    """The loop over the layers of a stack, whose parameters come in groups."""

    body: Body
    types: tuple[LayerType, ...]
    groups: dict[str, tuple[int, ...]]
    policy: Policy | None
    """What the backward pass keeps of a layer; None: all."""

    def run(self, carry: tuple, layers: dict[str, tuple]) -> tuple[tuple, Aux]:
        """Runs all layers with a scan, which compiles a single period.

        Short stacks are unrolled on a CPU, where a scan copies each layer's weights out of the
        stack and its activations into one, which takes a fifth of a training step.
        """
        count, (head, period, repeats) = len(self.types), layer_pattern(self.types)
        if mesh.platform() == "cpu" and count <= MAX_UNROLLED:
            head, repeats = count, 0
        end = head + period * repeats
        carry, aux = self._unroll(carry, layers, 0, head)
        if repeats:
            carry, sums = self._scan(carry, layers, head, period, repeats)
            aux = add_aux(aux, jax.tree.map(lambda x: x.sum(0), sums))
        carry, rest = self._unroll(carry, layers, end, count)
        return carry, add_aux(aux, rest)

    def _scan(
        self, carry: tuple, layers: dict[str, tuple], head: int, period: int, repeats: int
    ) -> tuple[tuple, Aux]:
        """Scans `repeats` periods of layers from number `head`; sums have a leading axis."""
        ranges = {name: self._group_range(name, head, head + period) for name in self.groups}
        periods = {}
        for name, part in layers.items():
            start, end = self._group_range(name, head, head + period * repeats)
            size = ranges[name][1] - ranges[name][0]
            if (size, repeats) != (1, len(self.groups[name])) and size:
                shape = (repeats, size) if size > 1 else (repeats,)
                part = jax.tree.map(
                    lambda leaf, start=start, end=end, shape=shape: leaf[start:end].reshape(
                        *shape, *leaf.shape[1:]
                    ),
                    part,
                )
            if size:
                periods[name] = part

        def run_period(carry: tuple, layers: dict[str, tuple]) -> tuple[tuple, Aux]:
            aux: Aux = {}
            for number in range(head, head + period):
                name = group_of(self.groups, number)
                start, end = ranges[name]
                layer, index = layers[name], self.groups[name].index(number) - start
                if end - start > 1:
                    layer = jax.tree.map(lambda leaf, index=index: leaf[index], layer)
                carry, more = self._remat(number, prevent_cse=False)(carry, layer)
                aux = add_aux(aux, more)
            return carry, aux

        return jax.lax.scan(run_period, carry, periods)

    def _unroll(
        self, carry: tuple, layers: dict[str, tuple], start: int, end: int
    ) -> tuple[tuple, Aux]:
        """Runs layers `start` to `end`, each as its own part of the program."""
        aux: Aux = {}
        if start == end:
            return carry, aux
        split: dict[int, Any] = {}
        for name, part in layers.items():
            first, last = self._group_range(name, start, end)
            if last > first:
                layer_slice = jax.tree.map(lambda leaf, a=first, b=last: leaf[a:b], part)
                numbers = self.groups[name][first:last]
                layers_of = split_layers(layer_slice, last - first)
                split |= dict(zip(numbers, layers_of, strict=True))
        for number in range(start, end):
            carry, more = self._remat(number, prevent_cse=True)(carry, split[number])
            aux = add_aux(aux, more)
        return carry, aux

    def _group_range(self, name: str, start: int, end: int) -> tuple[int, int]:
        """Range of indices in a group of the layers numbered `start` to `end`."""
        numbers = self.groups[name]
        return sum(n < start for n in numbers), sum(n < end for n in numbers)

    def _remat(
        self, number: int, *, prevent_cse: bool
    ) -> Callable[[tuple, tuple], tuple[tuple, Aux]]:
        """Layer `number` with rematerialization; without a scan, it needs `prevent_cse`."""

        def run_layer(carry: tuple, layer: tuple) -> tuple[tuple, Aux]:
            return self.body(carry, layer, number)

        if self.policy is None:
            return run_layer
        return jax.checkpoint(run_layer, policy=self.policy, prevent_cse=prevent_cse)


def split_layers(stacked: Any, count: int) -> list[Any]:
    """Splits a tree whose leaves have a leading axis of `count` layers into a tree per layer."""
    leaves, tree = jax.tree.flatten(stacked)
    split = [jax.lax.split(mesh.whole_stack(leaf), (1,) * count) for leaf in leaves]
    return [
        jax.tree.unflatten(tree, [part[0] for part in parts]) for parts in zip(*split, strict=True)
    ]
