"""Reflection on config dataclasses: fields, types, docstrings, variants.

It serves help texts, command-line overrides, checks and JSON alike. Members of a union of
dataclasses (`SourceA | SourceB`) or of a registry (`Annotated[Source, SOURCES]`) are tagged by a
field named `kind`, whose default is the tag.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
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
    """The attribute docstring of every field of `cls`, the string below it in the source."""
    docstrings: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, next_node in itertools.pairwise(body.body):
            if isinstance(node, ast.AnnAssign) and isinstance(next_node, ast.Expr):
                text = ast.literal_eval(next_node.value)
                docstrings[ast.unparse(node.target)] = " ".join(text.split())
    return docstrings


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union or the classes of a registry; for any other type, the type itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *metadata = typing.get_args(annotation)
        for value in metadata:
            if isinstance(value, Registry):
                return tuple(value.values())
        return members(inner)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(m for arg in typing.get_args(annotation) for m in members(arg))
    return (annotation,)


def variants(annotation: Any) -> tuple[type, ...]:
    """The dataclasses that a field of this type may hold; () for plain values."""
    return tuple(m for m in members(annotation) if dataclasses.is_dataclass(m))  # type: ignore[misc]


def element(annotation: Any) -> Any | None:
    """X for `tuple[X, ...]` if X is a dataclass or a union of them; None for other types."""
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and args[1:] == (...,) and variants(args[0]):
        return args[0]
    return None


def kind(cls: type) -> str:
    """The tag of a variant: the default of its field `kind`, or else the class name."""
    for field in dataclasses.fields(cls):
        if field.name == "kind":
            return str(field.default)
    return cls.__name__


def is_untagged(annotation: Any) -> bool:
    """Whether a type is a single dataclass without a field `kind`."""
    classes = variants(annotation)
    return len(classes) == 1 == len(members(annotation)) and "kind" not in hints(classes[0])


def annotation_at(annotation: Any, path: Path) -> Any | None:
    """The type of the field at `path` in a value of type `annotation`; None if there is none."""
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
    """A field of a config value."""

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
    """Every field of a dataclass value, depth first."""
    cls: Any = type(value)
    for name, annotation in hints(cls).items():
        if name == "kind":
            continue
        path, inner = (*prefix, name), getattr(value, name)
        doc = docs(cls).get(name, "")
        if element(annotation) is not None:
            yield Row(path, annotation, inner, doc)
            for index, item in enumerate(inner):
                yield from rows(item, (*path, str(index)))
        elif dataclasses.is_dataclass(inner):
            if len(variants(annotation)) > 1:
                yield Row(path, annotation, inner, doc)
            yield from rows(inner, path)
        else:
            yield Row(path, annotation, inner, doc)


def type_name(annotation: Any) -> str:
    """The name of a type in help texts and error messages."""
    if annotation is type(None):
        return "none"
    if (item := element(annotation)) is not None:
        first = f"{next(iter(hints(item)))},field=value" if is_untagged(item) else type_name(item)
        return f"{first} ..."
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
    """The name of a type in a sentence: `an integer`, `a number or none`, `one of a|b`."""
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
    """The choice most similar to `word`, if any is similar."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None
