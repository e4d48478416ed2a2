"""llmjax: train, evaluate and run language models in JAX.

    lm = llmjax.load("runs/quickstart")
    lm.score("some text").bits_per_byte
    lm.generate(["a prompt"], max_new_tokens=64)
    llmjax.train(llmjax.load_config_file("quickstart"))

Importing this package is fast: the public names, listed in `__init__.pyi`, are imported on first
use.
"""

from typing import Any

import lazy_loader

_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # reads the installed metadata, which takes as long as all the rest
        from llmjax.version import __version__

        return __version__
    return _public_name(name)
