"""llmjax: train, evaluate and run language models in JAX.

    lm = llmjax.load("runs/quickstart")
    lm.score("some text").bits_per_byte
    lm.generate(["a prompt"], max_new_tokens=64)
    llmjax.train(llmjax.load_config_file("quickstart"))

Importing this package is light: each name below brings its module when it is first used.
"""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmjax.chat import chat as chat
    from llmjax.choose import choose as choose
    from llmjax.compress import compress as compress
    from llmjax.compress import decompress, inspect
    from llmjax.config import Config, SamplesConfig, load_config_file
    from llmjax.convert import export, import_adapter, import_model
    from llmjax.data.config import DataConfig
    from llmjax.decoding.config import DecodingConfig
    from llmjax.embed import embed as embed
    from llmjax.errors import UserError
    from llmjax.evaluate import evaluate as evaluate
    from llmjax.fill_mask import fill_mask as fill_mask
    from llmjax.generate import generate as generate
    from llmjax.harness import harness as harness
    from llmjax.language_model import LanguageModel, load
    from llmjax.mesh import MeshConfig
    from llmjax.model.config import ModelConfig
    from llmjax.predict import predict as predict
    from llmjax.report import report as report
    from llmjax.run import Run
    from llmjax.train import train as train

    __version__: str

__all__ = [
    "Config",
    "DataConfig",
    "DecodingConfig",
    "LanguageModel",
    "MeshConfig",
    "ModelConfig",
    "Run",
    "SamplesConfig",
    "UserError",
    "chat",
    "choose",
    "compress",
    "decompress",
    "embed",
    "evaluate",
    "export",
    "fill_mask",
    "generate",
    "harness",
    "import_adapter",
    "import_model",
    "inspect",
    "load",
    "load_config_file",
    "predict",
    "report",
    "train",
]

_VERBS = (
    "chat",
    "choose",
    "compress",
    "embed",
    "evaluate",
    "fill_mask",
    "generate",
    "harness",
    "predict",
    "report",
    "train",
)
_HOME = {
    "Config": "config",
    "SamplesConfig": "config",
    "decompress": "compress",
    "inspect": "compress",
    "export": "convert",
    "import_adapter": "convert",
    "import_model": "convert",
    "load_config_file": "config",
    "DataConfig": "data.config",
    "DecodingConfig": "decoding.config",
    "UserError": "errors",
    "LanguageModel": "language_model",
    "load": "language_model",
    "MeshConfig": "mesh",
    "ModelConfig": "model.config",
    "Run": "run",
}


class _Verb(ModuleType):
    """A module that is called like the function of its own name: `llmjax.train(config)`.

    The function and its module share one name, and Python binds it to the module as soon as that is
    imported, by whomever. Made callable, the module serves both.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Package(ModuleType):
    """This package: makes the modules of verbs callable when they are bound to it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and type(value) is ModuleType:
            value.__class__ = _Verb
            value.__doc__ = f"{value.__doc__}\n\n{vars(value).get(name, value).__doc__}"
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version(__name__)
        except PackageNotFoundError:  # a source tree that is not installed
            return "unknown"
    if name in _VERBS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
