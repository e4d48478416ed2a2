"""A user's config file, a preset that comes with llmjax by its bare name, or a run folder's."""

import runpy
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from llmjax.config.build import shown
from llmjax.config.fields import nearest
from llmjax.config.schema import Config
from llmjax.config.storage import read
from llmjax.errors import UserError

# What a Python file raises when it is wrong; interrupts and exits pass through.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def presets_folder() -> Path:
    """Where the presets are: inside an installed package, or beside it in a source tree."""
    package = Path(__file__).parents[1]
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

    The file's folder is importable meanwhile, so that configs can build on each other.

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
    sys.path.insert(0, str(path.resolve().parent))
    try:
        make = runpy.run_path(str(path), run_name="llmjax_config").get("config")
        if not callable(make):
            raise UserError(path, "has no function config()", "define config() -> llmjax.Config")
        config = make()
    except FAULTS as error:
        raise UserError(path, _blame(error, path)) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    if not isinstance(config, Config):
        raise UserError(path, f"config() returns {shown(config)}", "return an llmjax.Config")
    return config


def _blame(error: BaseException, path: Path) -> str:
    """What went wrong in a config file, with the last of its lines that took part."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename) == path:
            line = frame.lineno
    where = f"line {line}: " if line else ""
    what = error.msg if isinstance(error, SyntaxError) else error
    return f"{where}{type(error).__name__}: {what}"
