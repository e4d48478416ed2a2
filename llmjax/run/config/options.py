"""The options of a command, spelled once.

A frozen dataclass has a field for each option: its type, its default, and its meaning as the string
below it. The function of the command takes the dataclass, `keyword_options` lets callers give its
fields as keywords, and the command line reads the same fields.

    @dataclass(frozen=True)
    class EchoOptions:
        times: int = 1
        '''How often.'''

    @keyword_options()
    def echo(text: str, options: EchoOptions) -> str:
        return text * options.times

    echo("ab", times=2) == echo("ab", EchoOptions(times=2)) == "abab"
"""

import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import Parameter
from typing import Any, TypeVar

from llmjax.errors import UserError

T = TypeVar("T")


def keyword_options(*positional: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Lets a function with a parameter `options`, an options dataclass, be called with its fields.

    The new function takes the parameters in front of `options`, the fields named here (also by
    position), `options` itself, and the other fields as keywords; keywords win over `options`. It
    accepts one value, or any sequence, where a field is a tuple. `options` may also be of a class
    that the dataclass inherits from, or that inherits from it: they share those fields.

    Args:
      *positional: fields that may be given by position.

    Raises (the new function):
      UserError: there is no such option.
      TypeError: the call does not fit the signature in another way.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        signature = inspect.signature(function)
        cls = signature.parameters["options"].annotation
        names = [field.name for field in option_fields(cls)]
        public = _public_signature(signature, cls, positional)

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> T:
            _check_names(function.__name__, keywords, public)
            given = public.bind(*args, **keywords).arguments
            changes = {name: given.pop(name) for name in names if name in given}
            given["options"] = make_options(cls, given.get("options"), changes)
            return function(**given)

        call.__signature__ = public  # type: ignore[attr-defined]
        return call

    return decorate


def option_fields(cls: Any) -> list["dataclasses.Field[Any]"]:
    """The fields of a dataclass, its own before those that it inherits."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    order = dict.fromkeys(name for base in cls.__mro__ for name in inspect.get_annotations(base))
    return [fields[name] for name in order if name in fields]


def make_options(cls: type[T], base: object | None, changes: Mapping[str, Any]) -> T:
    """Options with the fields that `base` shares with `cls`, and `changes` over them.

    Raises:
      TypeError: `base` is no such options, or a field without a default is not given.
    """
    if base is not None and not (isinstance(base, cls) or issubclass(cls, type(base))):
        raise TypeError(f"options is a {type(base).__name__}, not a {cls.__name__}")
    types = typing.get_type_hints(cls)
    shared = [name for name in types if base is not None and hasattr(base, name)]
    values = {name: getattr(base, name) for name in shared}
    return cls(**values | {name: _as_field(types[name], value) for name, value in changes.items()})


def _public_signature(
    signature: inspect.Signature, cls: Any, positional: tuple[str, ...]
) -> inspect.Signature:
    types = typing.get_type_hints(cls)
    fields = {
        field.name: Parameter(
            field.name,
            Parameter.POSITIONAL_OR_KEYWORD if field.name in positional else Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=types[field.name],
        )
        for field in option_fields(cls)
    }
    parameters = list(signature.parameters.values())
    at = list(signature.parameters).index("options")
    options = Parameter(
        "options", Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=cls | None
    )
    rest = [fields.pop(name) for name in positional]
    before, after = parameters[:at], parameters[at + 1 :]
    return signature.replace(parameters=[*before, *rest, options, *fields.values(), *after])


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is dataclasses.MISSING else field.default


def _check_names(function: str, keywords: Mapping[str, Any], public: inspect.Signature) -> None:
    for name in keywords:
        if name not in public.parameters:
            near = get_close_matches(name, public.parameters, 1)
            fix = f"did you mean {near[0]}?" if near else f"help(llmjax.{function}) lists them"
            raise UserError(f"{function}({name}=...)", "no such option", fix)


def _as_field(annotation: Any, value: Any) -> Any:
    """The value of a field; of a tuple, one item stands for a tuple of it."""
    if typing.get_origin(annotation) is not tuple or value is None:
        return value
    single = isinstance(value, str | os.PathLike) or dataclasses.is_dataclass(value)
    return (value,) if single else tuple(value)
