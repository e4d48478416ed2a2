"""Where caches are kept: tokens, tokenizers, compiled programs."""

import os
from pathlib import Path


def cache_root(cache_dir: str | None = None) -> Path:
    """The folder of caches: as configured, or where the environment says (see DataConfig)."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if own := os.environ.get("LLMJAX_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llmjax"
