"""llmjax: train, evaluate and run language models in JAX.

    lm = llmjax.load("runs/quickstart")
    lm.score("some text").bits_per_byte
    lm.generate(["a prompt"], max_new_tokens=64)
    llmjax.train(llmjax.load_config_file("quickstart"))

Importing this package is light: the public names stand in `__init__.pyi`, and each brings its
module when it is first used.
"""

from typing import Any

import lazy_loader

_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # asks the installed metadata, which takes as long as all the rest
        from llmjax.version import __version__

        return __version__
    return _public_name(name)
