"""Conversion between nested dicts of parameters and flat ones with dotted paths."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted path and value of each leaf."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dict of leaves by dotted path."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *outer, last = path.split(".")
        node = tree
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = value
    return tree
