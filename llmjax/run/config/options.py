"""Options shared by a command and the library function of the same name.

A frozen dataclass has a field for each option, with type, default and docstring. The function takes
the dataclass; `keyword_options` lets callers pass its fields as keywords; the command line reads
the same fields.

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


def keyword_options(
    *positional: str, defaults: Callable[[Any], object] | None = None
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorates a function with a parameter `options`, a dataclass, to accept its fields.

    The decorated function takes the parameters before `options`, the fields named here (also by
    position), `options` itself, and the other fields as keywords, which override `options`. For a
    tuple it accepts a single item or any sequence. `options` may also be of a base class or a
    subclass of the dataclass, whose shared fields then count.

    Args:
      *positional: fields that may be passed by position.
      defaults: makes the options that keywords override, if the caller passes none, from the
        function's first argument; None: the dataclass's defaults.

    Raises (the decorated function):
      UserError: there is no such option.
      TypeError: the call does not match the signature otherwise.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        signature = inspect.signature(function)
        cls = signature.parameters["options"].annotation
        names = [field.name for field in option_fields(cls)]
        public = _public_signature(signature, cls, positional)

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> T:
            _check_names(function.__name__, keywords, public)
            arguments = public.bind(*args, **keywords).arguments
            changes = {name: arguments.pop(name) for name in names if name in arguments}
            base = arguments.get("options")
            if base is None and defaults is not None:
                base = defaults(next(iter(arguments.values())))
            arguments["options"] = make_options(cls, base, changes)
            return function(**arguments)

        call.__signature__ = public  # type: ignore[attr-defined]
        return call

    return decorate


def option_fields(cls: Any) -> list["dataclasses.Field[Any]"]:
    """The fields of a dataclass, its own before inherited ones."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    order = dict.fromkeys(name for base in cls.__mro__ for name in inspect.get_annotations(base))
    return [fields[name] for name in order if name in fields]


def make_options(cls: type[T], base: object | None, changes: Mapping[str, Any]) -> T:
    """Options with the fields that `base` shares with `cls`, overridden by `changes`.

    Raises:
      TypeError: `base` is of another class, or a field without a default is missing.
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
    index = list(signature.parameters).index("options")
    options = Parameter(
        "options", Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=cls | None
    )
    positional_fields = [fields.pop(name) for name in positional]
    parameters[index : index + 1] = [*positional_fields, options, *fields.values()]
    return signature.replace(parameters=parameters)


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
    """The value of a field; for a tuple, a single item becomes a tuple."""
    if typing.get_origin(annotation) is not tuple or value is None:
        return value
    single = isinstance(value, str | os.PathLike) or dataclasses.is_dataclass(value)
    return (value,) if single else tuple(value)
