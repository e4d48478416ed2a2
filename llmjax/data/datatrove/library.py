"""What readers and filters share: whether datatrove and what it needs are there, and which version
decides results."""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from llmjax.errors import UserError

log = logging.getLogger(__name__)

_PACKAGES = re.compile(r"[Pp]lease install (.+?) to ")
_INSTALL = re.compile(r"`(pip install [^`]+)`")
PINNED = "pip install 'datatrove==0.10.*'"
"""The version whose signatures the fields here have."""


def check_library() -> None:
    """Raises a UserError if datatrove is not installed."""
    if importlib.util.find_spec("datatrove") is None:
        raise UserError(
            "datatrove", "the package is not installed", "pip install 'llmjax[datatrove]'"
        )


def versions(*packages: str) -> list[str]:
    """Of datatrove, and of other installed packages that decide results."""
    return [f"{name} {metadata.version(name)}" for name in ("datatrove", *packages)]


def construct(package: str, name: str, arguments: Mapping[str, Any], noun: str) -> Any:
    """An object of a class of datatrove.

    Args:
      package: in datatrove.pipeline.
      name: of the class.
      arguments: of its constructor.
      noun: what messages call it.

    Raises:
      UserError: datatrove is not installed, or its version has no such class or parameter; a
        package, or a file that the class downloads, is missing.
    """
    cls = getattr(pipeline(package), name, None)
    installed = f"{versions()[0]} has no"
    if cls is None:
        raise UserError(noun, f"{installed} {name}", PINNED)
    unknown = [each for each in arguments if each not in inspect.signature(cls.__init__).parameters]
    if unknown:
        raise UserError(noun, f"{installed} parameter {', '.join(unknown)} of {name}", PINNED)
    with complete(noun):
        return cls(**arguments)


@contextlib.contextmanager
def complete(noun: str) -> Iterator[None]:
    """Raises a UserError about `noun` for missing packages, failed downloads and wrong values."""
    try:
        yield
    except ImportError as error:
        match = _INSTALL.search(str(error))
        fix = match[1] if match else "pip install 'llmjax[datatrove-filters]'"
        packages = _PACKAGES.search(str(error))
        needed = packages[1].replace("`", "") if packages else None
        reason = f"needs {needed}" if needed else f"a package is missing: {error}"
        raise UserError(noun, reason, fix) from error
    except OSError as error:
        reason = f"what it needs cannot be read or downloaded: {error}"
        raise UserError(noun, reason, "check network and disk") from error
    except ValueError as error:
        raise UserError(noun, f"datatrove refuses its values: {error}") from error


def pipeline(name: str) -> Any:
    """The module of datatrove.pipeline of this name, whose warnings go to Python's logging.

    Raises:
      UserError: datatrove is not installed.
    """
    check_library()
    is_first = "datatrove.utils.logging" not in sys.modules
    module = importlib.import_module(f"datatrove.pipeline.{name}")
    if is_first:  # else an executor may have set up the log of a task
        hear_warnings()
    return module


def hear_warnings() -> None:
    """Sends datatrove's warnings to Python's logging, each once, in place of printing all of its
    messages to stderr."""
    from loguru import logger

    warn = functools.lru_cache(256)(lambda text: log.warning("datatrove: %s", text))
    logger.remove()
    logger.add(lambda message: warn(message.record["message"]), level="WARNING")
