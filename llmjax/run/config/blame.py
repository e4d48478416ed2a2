"""What is wrong in a user's config file, in a line that says where, what, and what was meant."""

import dataclasses
import functools
import re
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from llmjax.errors import UserError
from llmjax.run.config.fields import element, hints, nearest, variants
from llmjax.run.config.schema import Config

# How Python words the misuse of a class; tests hold it to every version that they run on.
UNKNOWN_FIELD = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
MISSING_FIELDS = re.compile(r"(\w+)\.__init__\(\) missing \d+ required \S+ arguments?: (.+)")
FROZEN_FIELD = re.compile(r"cannot assign to field '(\w+)'")
NO_SUCH_IMPORT = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


class Blame:
    """A block that runs a user's file: whatever is raised in it becomes a UserError about the file.

    Interrupts pass through, and so do the UserErrors of our own functions that the file calls.
    """

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, SystemExit):
            reason = f"{_line(error, self._path)}the file ends the program"
            raise UserError(self._path, reason, "let config() return an llmjax.Config") from error
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(self._path, _line(error, self._path) + what(error)) from error


def what(error: Exception) -> str:
    """The kind of mistake, and what was meant where that can be guessed."""
    name = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{name}: {error.msg}"
    said = str(error)
    for guess in (_field, _frozen, _name, _attribute, _import):
        if meant := guess(error, said):
            return f"{name}: {meant}"
    return f"{name}: {said}" if said else name


def _line(error: BaseException, path: Path) -> str:
    """The last line of the file, or of one that it imports from its folder, that took part."""
    if isinstance(error, SyntaxError):
        here = error.filename is None or Path(error.filename) == path
        return (
            "" if error.lineno is None else _place(None if here else error.filename, error.lineno)
        )
    found = ""
    folder = path.resolve().parent
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename) == path:
            found = _place(None, frame.lineno)
        elif Path(frame.filename).parent == folder:
            found = _place(frame.filename, frame.lineno)
    return found


def _place(file: str | None, line: int | None) -> str:
    return f"line {line}: " if file is None else f"{Path(file).name} line {line}: "


def _field(error: Exception, said: str) -> str | None:
    known = config_classes()
    if found := UNKNOWN_FIELD.match(said):
        cls = known.get(found[1])
        near = nearest(found[2], hints(cls)) if cls else None
        return f"{found[1]} has no field {found[2]}" + (f"; did you mean {near}?" if near else "")
    if (found := MISSING_FIELDS.match(said)) and found[1] in known:
        return f"{found[1]} needs {found[2].replace(chr(39), '')}"
    return None


def _frozen(error: Exception, said: str) -> str | None:
    found = FROZEN_FIELD.match(said)
    if isinstance(error, dataclasses.FrozenInstanceError) and found:
        return f"a config does not change; use dataclasses.replace(config, {found[1]}=...)"
    return None


def _name(error: Exception, said: str) -> str | None:
    if not isinstance(error, NameError) or not error.name:
        return None
    known = config_classes()
    near = error.name if error.name in known else nearest(error.name, known)
    if near == error.name:
        return f"{near} is not imported; add: from llmjax import {near}"
    return f"{said}; did you mean {near}?" if near else None


def _attribute(error: Exception, said: str) -> str | None:
    if not isinstance(error, AttributeError) or not error.name:
        return None
    return _with_nearest(said, error.name, [name for name in dir(error.obj) if name[0] != "_"])


def _import(error: Exception, said: str) -> str | None:
    if not isinstance(error, ImportError) or not (found := NO_SUCH_IMPORT.match(said)):
        return None
    if found[1] in (known := config_classes()):
        return f"no {found[1]} in {found[2]}; write: from llmjax import {found[1]}"
    return _with_nearest(f"no {found[1]} in {found[2]}", found[1], known)


def _with_nearest(said: str, word: str, choices: Iterable[str]) -> str | None:
    near = nearest(word, choices)
    return f"{said}; did you mean {near}?" if near else None


@functools.cache
def config_classes() -> Mapping[str, type]:
    """Every class that a config is made of, by its name."""
    found: dict[str, type] = {}
    waiting: list[type] = [Config]
    while waiting:
        cls = waiting.pop()
        if cls.__name__ not in found:
            found[cls.__name__] = cls
            for annotation in hints(cls).values():
                waiting += variants(element(annotation) or annotation)
    return found
