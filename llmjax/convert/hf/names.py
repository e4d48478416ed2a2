"""Tables of names: which tensor of theirs is which parameter of ours, in both directions."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from llmjax.convert.hf.layout import Layout
from llmjax.model.config import ModelConfig

LAYER = "{layer}"


@dataclass(frozen=True)
class Row:
    """A parameter and the tensor that holds it."""

    leaf: str
    """Path of ours, such as decoder.layers.mlp.up.kernel."""
    name: str
    """Of the tensor; with {layer}, one for each layer of our stacked array."""
    layout: Layout
    missing_in: tuple[int, ...] = ()
    """Layers that have no such tensor, and do not use ours."""
    only: tuple[str, object] | None = None
    """A field of ModelConfig, and the value without which this row does not count."""

    def counts(self, config: ModelConfig) -> bool:
        """Whether it counts in a model of this config."""
        return self.only is None or getattr(config, self.only[0]) == self.only[1]


@dataclass(frozen=True)
class NameTable:
    """All that is known of a family's tensors."""

    rows: tuple[Row, ...]
    """For every parameter that a model of this family can have; a model has some of them."""
    prefix: str = ""
    """What names begin with; the base model alone is saved without it."""
    renames: tuple[tuple[str, str], ...] = ()
    """Other spellings: regular expressions, and what is written instead."""
    ignorable: tuple[str, ...] = ()
    """Regular expressions of tensors that hold nothing learned, or serve another task."""
    copies: dict[str, str] = field(default_factory=dict)
    """Tensors that only repeat another, where the model has no parameter for them."""
    stand_ins: dict[str, str] = field(default_factory=dict)
    """Tensors that count only where another one is missing."""


def canonical(table: NameTable, name: str, known: Collection[str]) -> str:
    """The table's spelling of a tensor's name, where it is one of `known`."""
    for pattern, instead in table.renames:
        name = re.sub(pattern, instead, name)
    return table.prefix + name if name not in known and table.prefix + name in known else name
