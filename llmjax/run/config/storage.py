"""A config as JSON: `{"format": 9, "llmjax": "0.1.0", "config": {...}}`, and a checksum.

Whoever adds, removes or renames a field of a config raises FORMAT by one and adds a migration from
the previous format (see `migrations`). A file is refused if its fields are not exactly those of its
format, or if its checksum is wrong. The checksum may be missing: older versions wrote none, and who
edits the file by hand removes it.
"""

from collections.abc import Mapping
from pathlib import Path

from llmjax.errors import UserError
from llmjax.run.config.build import ConfigError, build, plain
from llmjax.run.config.migrations import MIGRATIONS
from llmjax.run.config.schema import Config
from llmjax.storage.bounded import read_text
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import SETTINGS, json_text, parse_json
from llmjax.version import __version__

FORMAT = 10


def package_version() -> str:
    """llmjax's version; "unknown" in a source tree that is not installed."""
    return __version__


def to_json(config: Config) -> str:
    """The text of config.json; `from_json` returns an equal config."""
    document = {"format": FORMAT, "llmjax": package_version(), "config": plain(config)}
    return json_text(with_checksum(document), indent=2) + "\n"


def from_json(text: str, name: str = "config.json") -> Config:
    """The config of a text written by `to_json`, of this version of llmjax or an older one.

    Args:
      text: contents of the file.
      name: its path, for messages.

    Raises:
      UserError: it is not JSON, has no format number or an unknown one, or its checksum is wrong.
      ConfigError: all fields that are missing, unknown or of a wrong type.
    """
    document = parse_json(text, name, unique=True, fix="restore the file from a copy")
    if isinstance(document, Mapping) and {"model_type", "architectures"} & document.keys():
        reason = "is the config of a published model, not of a run"
        raise UserError(name, reason, f"make a run of it: llmjax import {Path(name).parent} RUN")
    number = document.get("format") if isinstance(document, Mapping) else None
    if type(number) is not int or not isinstance(document.get("config"), dict):
        raise UserError(name, "has no format number and config", "it is not a config of llmjax")
    writer = document.get("llmjax", "unknown")
    if number > FORMAT:
        raise UserError(
            name,
            f"is of format {number}, written by llmjax {writer}; this is llmjax "
            f"{package_version()}, which reads formats up to {FORMAT}",
            "upgrade llmjax",
        )
    plain_config = document["config"]
    for step in range(number, FORMAT):
        if step not in MIGRATIONS:
            raise UserError(
                name,
                f"is of format {number}, written by llmjax {writer}, which is no longer read",
                "use that version",
            )
        plain_config = MIGRATIONS[step](plain_config)
    problems: list[str] = []
    config = build(Config, plain_config, "", problems)
    if problems:
        raise ConfigError([f"{name}: {problem}" for problem in problems])
    assert isinstance(config, Config)
    check_checksum(document, name)  # last, as messages about fields are more helpful
    return config


def read(path: Path) -> Config:
    """The config stored at `path`.

    Raises:
      UserError: as `from_json`; or the file cannot be read.
    """
    fix = "restore the file from a copy"
    return from_json(read_text(path, SETTINGS.size, fix=fix), str(path))
