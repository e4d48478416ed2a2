"""Loading configs: from a Python file, a preset of llmjax by name, or a run folder."""

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
from llmjax.run.folder import Run
from llmjax.storage.stores.path import is_store

# Python's messages for misuse of a class; tests check them on every Python they run on.
UNKNOWN_FIELD = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
MISSING_FIELDS = re.compile(r"(\w+)\.__init__\(\) missing \d+ required \S+ arguments?: (.+)")
FROZEN_FIELD = re.compile(r"cannot assign to field '(\w+)'")
NO_SUCH_IMPORT = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


def presets_folder() -> Path:
    """The folder of presets: inside an installed package, or beside it in a source tree."""
    package = Path(__file__).parents[2]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def presets() -> dict[str, Path]:
    """The presets by name."""
    return {path.stem: path for path in sorted(presets_folder().glob("[!_]*.py"))}


def find_config_file(name: str | Path) -> Path:
    """The path of a config file or preset.

    Raises:
      UserError: there is none; a preset of a similar name is suggested.
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

    Modules in the file's folder can be imported by the file, so that configs can build on each
    other. What the file prints goes to stderr.

    Args:
      name: a path; the name of a preset, such as `quickstart`; or a run folder to resume.

    Raises:
      UserError: there is no such file; it raises; it has no function config() that returns a
        Config; a field has the wrong type.
    """
    if is_store(name):
        return replace(Run.open(name).config(), run_dir=str(name))
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
        if required := _required_arguments(make):
            raise UserError(path, f"config() needs {required}", "give every argument a default")
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
    """Makes modules in this folder importable."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _required_arguments(function: Callable[..., Any]) -> str:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    return ", ".join(required)


class MistakesIn:
    """Turns exceptions of a user's file into UserErrors about the file, with line and suggestion.

    Interrupts pass through, and so do UserErrors of llmjax's own functions.
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
            raise UserError(self._path, _line(error, self._path) + _describe(error)) from error


def _describe(error: Exception) -> str:
    """The type of an error, and its message or a better one."""
    name = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{name}: {error.msg}"
    message = str(error)
    for explain in (_field, _frozen, _name, _attribute, _import):
        if explanation := explain(error, message):
            return f"{name}: {explanation}"
    return f"{name}: {message}" if message else name


def _line(error: BaseException, path: Path) -> str:
    """The innermost line of the traceback in the file, or in another one of its folder."""
    if isinstance(error, SyntaxError):
        if error.lineno is None:
            return ""
        is_same = error.filename is None or Path(error.filename) == path
        return _location(None if is_same else error.filename, error.lineno)
    location = ""
    folder = path.resolve().parent
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename) == path:
            location = _location(None, frame.lineno)
        elif Path(frame.filename).parent == folder:
            location = _location(frame.filename, frame.lineno)
    return location


def _location(file: str | None, line: int | None) -> str:
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
    """Every class in a config, by name."""
    classes: dict[str, type] = {}
    waiting: list[type] = [Config]
    while waiting:
        cls = waiting.pop()
        if cls.__name__ not in classes:
            classes[cls.__name__] = cls
            for annotation in hints(cls).values():
                waiting += variants(element(annotation) or annotation)
    return classes
