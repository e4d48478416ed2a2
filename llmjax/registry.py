"""Registries of classes by kind.

A kind is one file and one line in its registry. A config field that takes any kind is annotated
with the registry (`Annotated[Objective, OBJECTIVES]`); its values are discriminated by `kind`.
"""

import importlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

from llmjax.errors import UserError

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Kind -> class; a class's module is imported on first access."""

    def __init__(self, noun: str, classes: Mapping[str, str]):
        """
        Args:
          noun: what messages call an entry.
          classes: kind -> "module:Class", in the order help lists them.
        """
        self.noun, self._classes = noun, dict(classes)

    def __getitem__(self, kind: str) -> type[T]:
        """
        Raises:
          UserError: the kind does not exist; a similar one is suggested.
        """
        if kind not in self._classes:
            similar = get_close_matches(kind, self._classes, 1)
            fix = f"did you mean {similar[0]}?" if similar else "choose " + ", ".join(self._classes)
            raise UserError(f"{self.noun} {kind}", "does not exist", fix)
        module, _, name = self._classes[kind].partition(":")
        registered: type[T] = getattr(importlib.import_module(module), name)
        return registered

    def __contains__(self, kind: object) -> bool:
        return kind in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:  # annotations must be hashable
        return id(self)
