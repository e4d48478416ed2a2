"""llmjax: train, evaluate and run language models in JAX.

    lm = llmjax.load("runs/quickstart")
    lm.score("some text").bits_per_byte
    lm.generate(["a prompt"], max_new_tokens=64)
    llmjax.train(llmjax.load_config_file("quickstart"))

Importing this package is light: the public names stand in `__init__.pyi`, and each brings its
module when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
