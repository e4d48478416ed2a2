"""Plain data -> typed config values, with every problem found at once."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from llmjax.errors import UserError
from llmjax.run.config.fields import element, hints, kind, members, nearest, type_name, variants

MISSING = object()  # stands where a field without a default was not given


class ConfigError(UserError):
    """Several mistakes of the user's at once: `problems` has one line for each."""

    def __init__(self, problems: list[str] | tuple[str, ...]):
        self.problems = tuple(" ".join(problem.split()) for problem in problems)
        count = len(self.problems)
        thing = "config" if count == 1 else f"config ({count} problems)"
        super().__init__(thing, " | ".join(self.problems))


@functools.cache
def leaf_type(annotation: Any) -> TypeAdapter[Any]:
    """The validator of a field that holds no dataclass."""
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=True))


def plain(value: Any) -> Any:
    """The JSON form of a config value: dataclasses as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def shown(value: Any) -> str:
    """A value in an error message: never longer than a line."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to spell integers of thousands of digits
        text = f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= 60 else text[:57] + "..."


def build(annotation: Any, value: Any, where: str, problems: list[str]) -> Any:
    """The value of type `annotation` that `value` stands for.

    Types are strict (no text for numbers), but an integer serves where a number is wanted.

    Args:
      annotation: a dataclass, a union of dataclasses told apart by `kind`, a tuple of them, or any
        type that pydantic validates.
      value: plain data (dicts, lists, scalars), or instances of the dataclasses themselves.
      where: dotted name of the field, for messages.
      problems: every mistake is appended; the result is then of no use.
    """
    if (item := element(annotation)) is not None:
        if not isinstance(value, list | tuple):
            problems.append(f"{where}: {shown(value)} is not a list of {type_name(item)}")
            return ()
        return tuple(build(item, v, f"{where}.{i}", problems) for i, v in enumerate(value))
    if not variants(annotation):
        return _leaf(annotation, value, where, problems)
    if value is None and type(None) in members(annotation):
        return None
    cls = _choose(variants(annotation), value, where, problems)
    return cls and _fill(cls, value, where, problems)


def _leaf(annotation: Any, value: Any, where: str, problems: list[str]) -> Any:
    value = tuple(value) if isinstance(value, list) else value
    try:
        return leaf_type(annotation).validate_python(value, strict=True)
    except ValidationError:
        problems.append(f"{where}: {shown(value)} is not {article(annotation)}")
        return None


def _choose(classes: tuple[type, ...], value: Any, where: str, problems: list[str]) -> type | None:
    """Which of `classes` the value is of, or means."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value) in classes:
            return type(value)
        wanted = " or ".join(cls.__name__ for cls in classes)
        problems.append(f"{where or 'config'}: is a {type(value).__name__}, not a {wanted}")
        return None
    if not isinstance(value, Mapping):
        problems.append(f"{where or 'config'}: {shown(value)} is not a group of fields")
        return None
    if len(classes) == 1:
        return classes[0]
    tags = {kind(cls): cls for cls in classes}
    tag = value.get("kind", MISSING)
    if tag not in tags:
        said = "has no kind" if tag is MISSING else f"unknown kind {tag!r}"
        problems.append(f"{where}: {said}; choose one of {', '.join(tags)}")
        return None
    return tags[tag]


def _fill(cls: type, value: Any, where: str, problems: list[str]) -> Any:
    """The dataclass `cls` with each field built from `value`."""
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    known = hints(cls)
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in known:
            near = nearest(str(key), known)
            problems.append(f"{prefix}{key}: unknown" + (f"; did you mean {near}?" if near else ""))
    found: dict[str, Any] = {}
    before = len(problems)
    for name, annotation in known.items():
        if value.get(name, MISSING) is not MISSING:
            found[name] = build(annotation, value[name], prefix + name, problems)
        else:
            problems.append(f"{prefix}{name}: missing")
    return cls(**found) if len(problems) == before else None


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
