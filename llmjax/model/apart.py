"""Parameters whose layers come one by one, instead of stacked."""

import jax

from llmjax.model.plan import Params
from llmjax.model.stack import split_layers


def one_by_one(params: Params) -> Params:
    """The same parameters with a tuple of layers in each stack, instead of stacked arrays.

    All functions of a model take them too. Its programs are longer, and faster step by step: what a
    layer multiplies with lies in one piece. The stacked arrays are given up one after the other.
    """
    split = dict(params)
    for name in {"encoder", "decoder"} & set(params):
        leaves, tree = jax.tree.flatten(params[name]["layers"])
        layers = [[] for _ in range(len(leaves[0]))]  # type: list[list[jax.Array]]
        for leaf in leaves:
            for layer, part in zip(layers, _split(leaf, len(leaf)), strict=True):
                layer.append(part)
            leaf.delete()
        apart = tuple(jax.tree.unflatten(tree, layer) for layer in layers)
        split[name] = params[name] | {"layers": apart}
    return split


_split = jax.jit(split_layers, static_argnums=1)


def apart_layers(params: Params, stack: str) -> tuple[Params, ...] | None:
    """The layers of a stack, where they come one by one."""
    layers = params.get(stack, {}).get("layers")
    return layers if isinstance(layers, tuple) else None
