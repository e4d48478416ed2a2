"""llmjax's version, as installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("llmjax")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"
