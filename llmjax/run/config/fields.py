"""What a dataclass says about itself: its fields, their types, their meaning, their variants.

One reading of the config's classes serves the help text, the command line's overrides, the checks
and the JSON form. A union of dataclasses (`SourceA | SourceB`), or the classes of a registry
(`Annotated[Source, SOURCES]`), are told apart by a field named `kind`, whose default is the tag.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmjax.registry import Registry

Path = tuple[str, ...]


@functools.cache
def hints(cls: Any) -> Mapping[str, Any]:
    """The annotation of every field of the dataclass `cls`, in order."""
    known = typing.get_type_hints(cls, include_extras=True)
    return {field.name: known[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def docs(cls: Any) -> Mapping[str, str]:
    """The attribute docstring of every field of `cls`: the string that follows it in the source."""
    docstrings: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for here, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(here, ast.AnnAssign) and isinstance(after, ast.Expr):
                text = ast.literal_eval(after.value)
                docstrings[ast.unparse(here.target)] = " ".join(text.split())
    return docstrings


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, a registry's classes; any other type alone."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *notes = typing.get_args(annotation)
        for note in notes:
            if isinstance(note, Registry):
                return tuple(note.values())
        return members(inner)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(m for arg in typing.get_args(annotation) for m in members(arg))
    return (annotation,)


def variants(annotation: Any) -> tuple[type, ...]:
    """The dataclasses that a field of this type may hold; () for plain values."""
    return tuple(m for m in members(annotation) if dataclasses.is_dataclass(m))  # type: ignore[misc]


def element(annotation: Any) -> Any | None:
    """X for `tuple[X, ...]` where X is a dataclass or a union of them; None for other types."""
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and args[1:] == (...,) and variants(args[0]):
        return args[0]
    return None


def kind(cls: type) -> str:
    """The tag of a variant: the default of its field `kind`; its name where it has none."""
    for field in dataclasses.fields(cls):
        if field.name == "kind":
            return str(field.default)
    return cls.__name__


def annotation_at(annotation: Any, path: Path) -> Any | None:
    """The type of the field at `path` below a value of type `annotation`; None if there is none."""
    if not path:
        return annotation
    if (item := element(annotation)) is not None:
        return annotation_at(item, path[1:]) if path[0].isdecimal() else None
    for cls in variants(annotation):
        if path[0] in hints(cls):
            inner = annotation_at(hints(cls)[path[0]], path[1:])
            if inner is not None:
                return inner
    return None


@dataclass(frozen=True)
class Row:
    """One field of a config value."""

    path: Path
    annotation: Any
    value: Any
    doc: str

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        return flag(self.path)


def flag(path: Path) -> str:
    """A field as a command-line option: `--optimizer.learning-rate`."""
    return "--" + ".".join(path).replace("_", "-")


def rows(value: Any, prefix: Path = ()) -> Iterator[Row]:
    """Every field of a dataclass value, nested ones after the field that holds them."""
    cls: Any = type(value)
    for name, annotation in hints(cls).items():
        if name == "kind":
            continue
        here, inner = (*prefix, name), getattr(value, name)
        doc = docs(cls).get(name, "")
        if element(annotation) is not None:
            yield Row(here, annotation, inner, doc)
            for index, item in enumerate(inner):
                yield from rows(item, (*here, str(index)))
        elif dataclasses.is_dataclass(inner):
            if len(variants(annotation)) > 1:
                yield Row(here, annotation, inner, doc)
            yield from rows(inner, here)
        else:
            yield Row(here, annotation, inner, doc)


def type_name(annotation: Any) -> str:
    """A type in the words of the help text and of error messages."""
    if annotation is type(None):
        return "none"
    if (item := element(annotation)) is not None:
        return f"{type_name(item)} ..."
    if variants(annotation):
        kinds = [kind(cls) for cls in variants(annotation)]
        return "|".join([*kinds, "none"] if type(None) in members(annotation) else kinds)
    if len(members(annotation)) > 1:
        return "|".join(type_name(member) for member in members(annotation))
    if typing.get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        args = typing.get_args(annotation)
        return f"{type_name(args[0])} ..." if ... in args else " ".join(map(type_name, args))
    words = {int: "integer", float: "number", str: "text", bool: "true|false"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def article(annotation: Any) -> str:
    """A type inside a sentence: `an integer`, `a number or none`, `one of a|b`."""
    if len(parts := members(annotation)) > 1:
        return " or ".join(map(article, parts))
    name = type_name(annotation)
    if "..." in name:
        return f"a list: {name}"
    if "|" in name:
        return f"one of {name}"
    if name in ("none", "text"):
        return name
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `word`, if one does."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None
