"""The config on the page, by section, with fields that differ from their defaults marked."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmjax.reporting.records import sessions
from llmjax.run.config.fields import Path, Row, rows
from llmjax.run.config.files import load_config_file, presets
from llmjax.run.config.schema import Config


@dataclass(frozen=True)
class Setting:
    """One field: its value as text, its default if the value differs, and its meaning."""

    name: str
    value: str
    default: str | None
    doc: str

    @property
    def changed(self) -> bool:
        return self.default is not None


@dataclass(frozen=True)
class SettingGroup:
    """The settings of one section of the config."""

    title: str
    settings: Sequence[Setting]

    @property
    def changed(self) -> int:
        """The number of settings that differ from their defaults."""
        return sum(setting.changed for setting in self.settings)


@dataclass(frozen=True)
class Changes:
    """The fields that differ from those of a preset, or from the defaults.

    Attributes:
      base: what they are compared with: "the preset NAME" or "the defaults".
      settings: the fields, with dotted names.
    """

    base: str
    settings: Sequence[Setting]


def changes(config: Config, environment: Mapping[str, Any]) -> Changes:
    """Returns what a config changes in the preset that the run was first started with.

    If it was started with another file, the defaults take the place of the preset: running a
    user's file again could have side effects.
    """
    preset = _preset(environment)
    base = "the defaults" if preset is None else f"the preset {preset}"
    groups = setting_groups(config, Config() if preset is None else load_config_file(preset))
    return Changes(
        base,
        [
            replace(setting, name=_dotted(group.title, setting.name))
            for group in groups
            for setting in group.settings
            if setting.value != setting.default is not None
            and (group.title, setting.name) != ("run", "run_dir")
        ],
    )


def _dotted(section: str, name: str) -> str:
    return name if section == "run" else f"{section}.{name}".removesuffix(".kind")


def _preset(environment: Mapping[str, Any]) -> str | None:
    """Returns the preset of the first start whose command names one."""
    for session in sessions(environment):
        try:
            words = shlex.split(str(session.get("command") or ""))
        except ValueError:  # an unclosed quote
            continue
        if "train" in words[:-1] and (name := words[words.index("train") + 1]) in presets():
            return name
    return None


def setting_groups(config: Config, base: Config) -> list[SettingGroup]:
    """Returns every field of a config, top-level fields first, then section by section.

    Args:
      config: the config.
      base: the config whose values count as the defaults.
    """
    grouped: dict[str, list[Setting]] = {"run": []}
    for row in rows(config):
        in_section = dataclasses.is_dataclass(getattr(config, row.path[0]))
        title, path = (row.path[0], row.path[1:]) if in_section else ("run", row.path)
        setting = Setting(
            name=".".join(path) or "kind",
            value=value_text(row.value),
            default=_default(config, base, row),
            doc=row.doc,
        )
        grouped.setdefault(title, []).append(setting)
    return [SettingGroup(title, settings) for title, settings in grouped.items()]


def _default(config: Config, base: Config, row: Row) -> str | None:
    """Returns the default as text if it differs from the value; "required" if there is none."""
    default = _default_value(base, config, row.path)
    if default is dataclasses.MISSING:
        return "required"
    is_default = default == row.value
    if dataclasses.is_dataclass(row.value):
        is_default = type(default) is type(row.value)  # its fields have separate rows
    return None if is_default else value_text(default)


def _default_value(base: Any, value: Any, path: Path) -> Any:
    """Returns the default config's value at `path`, or the class's default if types differ."""
    for name in path[:-1]:
        index = int(name) if name.isdigit() else None
        value = value[index] if index is not None else getattr(value, name)
        if index is not None:
            base = base[index] if isinstance(base, tuple) and index < len(base) else None
        else:
            base = getattr(base, name, None)
    if type(base) is type(value):
        return getattr(base, path[-1])
    field = next(f for f in dataclasses.fields(value) if f.name == path[-1])
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def value_text(value: Any) -> str:
    """Formats a value as on the command line: none, true, 0.0003, a b."""
    if dataclasses.is_dataclass(value):
        return str(getattr(value, "kind", type(value).__name__))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ", ".join(value_text(item) for item in value) or "()"
    return str(value)
