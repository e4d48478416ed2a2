"""A config as the Python file that makes it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from llmjax.run.config.schema import Config

INDENT = " " * 4


def to_python(config: Config) -> str:
    """A config file for `llmjax train` whose config() returns an equal config.

    It states only the fields that differ from their class's defaults.
    """
    names = sorted(set(_classes(config)))
    imports = "".join(f"{INDENT}{name},\n" for name in names)
    return (
        f"from llmjax import (\n{imports})\n\n\n"
        f"def config() -> Config:\n{INDENT}return {_expression(config, INDENT)}\n"
    )


def _classes(value: Any) -> Iterator[str]:
    """The names of the dataclasses in the expression of a value."""
    if isinstance(value, tuple):
        for item in value:
            yield from _classes(item)
    elif dataclasses.is_dataclass(value):
        yield type(value).__name__
        for _, inner in _changed(value):
            yield from _classes(inner)


def _changed(value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass that differ from their defaults; of another type counts too."""
    for field in dataclasses.fields(value):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        inner = getattr(value, field.name)
        if type(inner) is not type(default) or inner != default:
            yield field.name, inner


def _expression(value: Any, indent: str) -> str:
    """A value as Python, its first line at any place and the others indented."""
    deeper = indent + INDENT
    if isinstance(value, tuple):
        items = [f"{_expression(item, deeper)}," for item in value]
        inline = f"({' '.join(items)})"
        if len(items) > 1 and not any(map(dataclasses.is_dataclass, value)):
            inline = f"({', '.join(repr(item) for item in value)})"
        if "\n" not in inline and len(indent) + len(inline) < 90:
            return inline
        return "\n".join(["(", *(deeper + item for item in items), f"{indent})"])
    if not dataclasses.is_dataclass(value):
        return repr(value)
    arguments = [f"{name}={_expression(inner, deeper)}" for name, inner in _changed(value)]
    name = type(value).__name__
    if len(arguments) < 2 and not any("\n" in argument for argument in arguments):
        return f"{name}({', '.join(arguments)})"
    return "\n".join(
        [f"{name}(", *(f"{deeper}{argument}," for argument in arguments), f"{indent})"]
    )
