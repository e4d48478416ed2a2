"""A user's config file, a preset that comes with llmjax by its bare name, or a run folder's."""

import contextlib
import inspect
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.run.config.blame import Blame
from llmjax.run.config.build import ConfigError, build, shown
from llmjax.run.config.fields import nearest
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import read


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
        then goes on with.

    Raises:
      UserError: no such file; it raises; it has no function config(), or one that returns
        something else; fields of a wrong type.
    """
    if (Path(name) / "config.json").is_file():
        return replace(read(Path(name) / "config.json"), run_dir=str(name))
    path = find_config_file(name)
    with Blame(path), _importable(path.resolve().parent), contextlib.redirect_stdout(sys.stderr):
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
