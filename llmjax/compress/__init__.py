"""Lossless compression by a run's model: any bytes in, the very same bytes out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmjax.compress.compressing import compress as compress
    from llmjax.compress.decompressing import Decompression as Decompression
    from llmjax.compress.decompressing import decompress as decompress
    from llmjax.compress.decompressing import inspect as inspect
    from llmjax.compress.summary import Compression as Compression

__all__ = ["Compression", "Decompression", "compress", "decompress", "inspect"]

_HOME = {
    "compress": "compressing",
    "decompress": "decompressing",
    "Decompression": "decompressing",
    "inspect": "decompressing",
    "Compression": "summary",
}


def __getattr__(name: str) -> Any:
    """Each name brings its module when it is first used: to inspect an archive needs no JAX."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
