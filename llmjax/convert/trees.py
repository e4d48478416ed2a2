"""Nested dicts of parameters as flat ones, by dotted path."""

from collections.abc import Iterator, Mapping
from typing import Any

from llmjax.model.params import Params


def flatten(tree: Params, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each leaf."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The nested dict of such leaves."""
    tree: Params = {}
    for path, value in flat.items():
        *outer, last = path.split(".")
        place = tree
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = value
    return tree
