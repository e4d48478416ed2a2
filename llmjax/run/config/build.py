"""Plain data -> typed config values, validated by pydantic; all problems are reported at once."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticCustomError, SchemaValidator, ValidationError, core_schema

from llmjax.errors import UserError
from llmjax.run.config.fields import (
    article,
    element,
    hints,
    kind,
    members,
    nearest,
    type_name,
    variants,
)


class ConfigError(UserError):
    """Several user errors at once; `problems` has a line for each."""

    def __init__(self, problems: list[str] | tuple[str, ...]):
        self.problems = tuple(" ".join(problem.split()) for problem in problems)
        count = len(self.problems)
        thing = "config" if count == 1 else f"config ({count} problems)"
        super().__init__(thing, " | ".join(self.problems))


def build(annotation: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Builds a value of type `annotation` from plain data.

    Types are strict, except that integers are accepted for floats. No field may be missing, even
    if it has a default.

    Args:
      annotation: a dataclass, a union or registry of dataclasses tagged by `kind`, a tuple of them,
        or any type that pydantic validates.
      value: plain data (dicts, lists, scalars), or instances of the dataclasses.
      where: dotted name of the field, for messages.
      problems: every problem is appended; the result is then invalid.
    """
    try:
        return _validator(annotation).validate_python(value)
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            path, field_type = _locate(annotation, mistake["loc"])
            name = ".".join([*filter(None, [where]), *path])
            problems.append(f"{name or 'config'}: {_reason(mistake, field_type)}")
        return None


@functools.cache
def leaf_type(annotation: Any) -> TypeAdapter[Any]:
    """The validator of a field without dataclasses."""
    return TypeAdapter(annotation)


@functools.cache
def _validator(annotation: Any) -> SchemaValidator:
    return SchemaValidator(_schema(annotation))


def _schema(annotation: Any) -> core_schema.CoreSchema:
    """Pydantic's schema of a type.

    Not that of a TypeAdapter, which fills in missing fields with defaults, and accepts unknown ones
    unless each class forbids them.
    """
    if (item := element(annotation)) is not None:
        return core_schema.tuple_variable_schema(_schema(item))
    classes = {kind(cls): _fields_schema(cls) for cls in variants(annotation)}
    if not classes:
        return core_schema.no_info_plain_validator_function(functools.partial(_leaf, annotation))
    schema: core_schema.CoreSchema
    if len(classes) == 1:
        (schema,) = classes.values()
    else:
        schema = core_schema.tagged_union_schema(classes, "kind")
    return core_schema.nullable_schema(schema) if type(None) in members(annotation) else schema


def _fields_schema(cls: type) -> core_schema.CoreSchema:
    fields = [
        core_schema.dataclass_field(name, _schema(annotation))
        for name, annotation in hints(cls).items()
    ]
    arguments = core_schema.dataclass_args_schema(cls.__name__, fields, extra_behavior="forbid")
    names = list(hints(cls))
    return core_schema.dataclass_schema(cls, arguments, names, revalidate_instances="always")


def _leaf(annotation: Any, value: Any) -> Any:
    value = _as_tuples(value)
    try:
        return leaf_type(annotation).validate_python(value, strict=True)
    except ValidationError:
        # Not as the template itself: the value may contain braces.
        text = f"{shown(value)} is not {article(annotation)}"
        raise PydanticCustomError("value", "{text}", {"text": text}) from None


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _locate(annotation: Any, keys: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The path of a mistake, without the kinds that pydantic inserts, and the type there."""
    path: list[str] = []
    waiting = list(keys)
    while waiting:
        key = waiting.pop(0)
        if (item := element(annotation)) is not None:
            annotation = item
        elif len(classes := variants(annotation)) > 1:
            annotation = next(cls for cls in classes if kind(cls) == key)
            continue
        elif classes:
            annotation = hints(classes[0]).get(str(key), classes[0])
        path.append(str(key))
    return path, annotation


def _reason(mistake: Any, annotation: Any) -> str:
    """The message for a mistake in a value of type `annotation`."""
    value, classes = mistake["input"], variants(annotation)
    match mistake["type"]:
        case "value":
            return str(mistake["ctx"]["text"])
        case "missing":
            return "missing"
        case "unexpected_keyword_argument":
            near = nearest(str(mistake["loc"][-1]), hints(annotation))
            return "unknown" + (f"; did you mean {near}?" if near else "")
    if (item := element(annotation)) is not None:
        return f"{shown(value)} is not a list of {type_name(item)}"
    if dataclasses.is_dataclass(value):
        expected = " or ".join(cls.__name__ for cls in classes)
        return f"has the type {type(value).__name__}, not {expected}"
    if not isinstance(value, Mapping):
        return f"{shown(value)} is not a section of fields"
    tag = f"unknown kind {value['kind']!r}" if "kind" in value else "has no kind"
    return f"{tag}; choose one of {', '.join(map(kind, classes))}"


def plain(value: Any) -> Any:
    """A config value as JSON data: dataclasses as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def shown(value: Any) -> str:
    """A value in an error message, at most 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        text = f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= 60 else text[:57] + "..."
