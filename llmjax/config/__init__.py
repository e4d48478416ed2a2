"""A run as one typed, frozen value: composed, loaded, overridden, checked, stored."""

from llmjax.config.build import ConfigError
from llmjax.config.checks import validate
from llmjax.config.files import find_config_file, load_config_file, presets
from llmjax.config.overrides import Override, override
from llmjax.config.schema import Config, SamplesConfig
from llmjax.config.storage import FORMAT, from_json, to_json

__all__ = [
    "FORMAT",
    "Config",
    "ConfigError",
    "Override",
    "SamplesConfig",
    "find_config_file",
    "from_json",
    "load_config_file",
    "override",
    "presets",
    "to_json",
    "validate",
]
