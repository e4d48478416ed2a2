"""A user's config file, a preset that comes with llmjax by its bare name, or a run folder's."""

import contextlib
import dataclasses
import functools
import inspect
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from llmjax.errors import UserError
from llmjax.run.config.build import ConfigError, build, shown
from llmjax.run.config.fields import element, hints, nearest, variants
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import read

# How Python words the misuse of a class; tests hold it to every version that they run on.
UNKNOWN_FIELD = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
MISSING_FIELDS = re.compile(r"(\w+)\.__init__\(\) missing \d+ required \S+ arguments?: (.+)")
FROZEN_FIELD = re.compile(r"cannot assign to field '(\w+)'")
NO_SUCH_IMPORT = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


def presets_folder() -> Path:
    """Where the presets are: inside an installed package, or beside it in a source tree."""
    package = Path(__file__).parents[2]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def presets() -> dict[str, Path]:
    """The presets by name."""
    return {path.stem: path for path in sorted(presets_folder().glob("[!_]*.py"))}


def find_config_file(name: str | Path) -> Path:
    """The path of a config file: the file itself, or the preset of that bare name.

    Raises:
      UserError: there is no such file; a preset of a similar name is suggested.
    """
    path, known = Path(name), presets()
    if path.is_file():
        return path
    if str(name) in known:
        return known[str(name)]
    if path.is_dir():
        fix = "name a run folder, or the Python file that has config()"
        raise UserError(path, "is a folder without config.json", fix)
    near = nearest(path.stem, known)
    hint = f"did you mean the preset {near}?" if near else f"presets: {', '.join(known)}"
    raise UserError(path, "no such config file", hint)


def load_config_file(name: str | Path) -> Config:
    """Runs a Python config file and calls its `config()`, or reads a run folder's config.

    The file's folder is importable meanwhile, so that configs can build on each other; what the
    file prints goes to stderr.

    Args:
      name: a path, or the bare name of a preset: `quickstart`; or a run folder, which the config
        then resumes.

    Raises:
      UserError: no such file; it raises; it has no function config(), or one that returns
        something else; fields of a wrong type.
    """
    if (Path(name) / "config.json").is_file():
        return replace(read(Path(name) / "config.json"), run_dir=str(name))
    path = find_config_file(name)
    with (
        MistakesIn(path),
        _importable(path.resolve().parent),
        contextlib.redirect_stdout(sys.stderr),
    ):
        make = runpy.run_path(str(path), run_name="llmjax_config").get("config")
        if not callable(make):
            raise UserError(path, "has no function config()", "define config() -> llmjax.Config")
        if needs := _arguments(make):
            raise UserError(path, f"config() needs {needs}", "give every argument a default")
        config = make()
    if not isinstance(config, Config):
        raise UserError(path, f"config() returns {shown(config)}", "return an llmjax.Config")
    problems: list[str] = []
    typed: Config = build(Config, config, "", problems)
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return typed


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in this folder can be imported in the block."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _arguments(make: Callable[..., Any]) -> str:
    """The arguments without which a function cannot be called."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(make).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    return ", ".join(needed)


class MistakesIn:
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
            raise UserError(self._path, _line(error, self._path) + _what(error)) from error


def _what(error: Exception) -> str:
    """The kind of mistake, and what was meant where that can be guessed."""
    name = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{name}: {error.msg}"
    message = str(error)
    for guess in (_field, _frozen, _name, _attribute, _import):
        if meant := guess(error, message):
            return f"{name}: {meant}"
    return f"{name}: {message}" if message else name


def _line(error: BaseException, path: Path) -> str:
    """The last line of the file, or of one that it imports from its folder, that took part."""
    if isinstance(error, SyntaxError):
        here = error.filename is None or Path(error.filename) == path
        return (
            "" if error.lineno is None else _place(None if here else error.filename, error.lineno)
        )
    place = ""
    folder = path.resolve().parent
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename) == path:
            place = _place(None, frame.lineno)
        elif Path(frame.filename).parent == folder:
            place = _place(frame.filename, frame.lineno)
    return place


def _place(file: str | None, line: int | None) -> str:
    return f"line {line}: " if file is None else f"{Path(file).name} line {line}: "


def _field(error: Exception, message: str) -> str | None:
    known = config_classes()
    if match := UNKNOWN_FIELD.match(message):
        cls = known.get(match[1])
        near = nearest(match[2], hints(cls)) if cls else None
        return f"{match[1]} has no field {match[2]}" + (f"; did you mean {near}?" if near else "")
    if (match := MISSING_FIELDS.match(message)) and match[1] in known:
        return f"{match[1]} needs {match[2].replace(chr(39), '')}"
    return None


def _frozen(error: Exception, message: str) -> str | None:
    match = FROZEN_FIELD.match(message)
    if isinstance(error, dataclasses.FrozenInstanceError) and match:
        return f"a config does not change; use dataclasses.replace(config, {match[1]}=...)"
    return None


def _name(error: Exception, message: str) -> str | None:
    if not isinstance(error, NameError) or not error.name:
        return None
    known = config_classes()
    near = error.name if error.name in known else nearest(error.name, known)
    if near == error.name:
        return f"{near} is not imported; add: from llmjax import {near}"
    return f"{message}; did you mean {near}?" if near else None


def _attribute(error: Exception, message: str) -> str | None:
    if not isinstance(error, AttributeError) or not error.name:
        return None
    return _with_nearest(message, error.name, [name for name in dir(error.obj) if name[0] != "_"])


def _import(error: Exception, message: str) -> str | None:
    if not isinstance(error, ImportError) or not (match := NO_SUCH_IMPORT.match(message)):
        return None
    if match[1] in (known := config_classes()):
        return f"no {match[1]} in {match[2]}; write: from llmjax import {match[1]}"
    return _with_nearest(f"no {match[1]} in {match[2]}", match[1], known)


def _with_nearest(message: str, word: str, choices: Iterable[str]) -> str | None:
    near = nearest(word, choices)
    return f"{message}; did you mean {near}?" if near else None


@functools.cache
def config_classes() -> Mapping[str, type]:
    """Every class that a config is made of, by its name."""
    classes: dict[str, type] = {}
    waiting: list[type] = [Config]
    while waiting:
        cls = waiting.pop()
        if cls.__name__ not in classes:
            classes[cls.__name__] = cls
            for annotation in hints(cls).values():
                waiting += variants(element(annotation) or annotation)
    return classes
