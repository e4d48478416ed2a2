"""JAX's persistent compilation cache."""

import hashlib
from pathlib import Path

import jax

from llmjax.storage.writing import cache_root


def enable_compilation_cache(cache_dir: str | None = None) -> None:
    """Enables JAX's persistent compilation cache, unless the user has set its folder.

    Args:
      cache_dir: the cache folder; None for the default (see DataConfig.cache_dir).
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_root(cache_dir) / "compiled" / _processor()
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
    """Names this kind of processor, since code compiled for one may crash on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.blake2b("\n".join(kind).encode(), digest_size=6).hexdigest()
