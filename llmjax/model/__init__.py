"""The Transformer: a config, and pure functions of plain parameters.

A config is read without Flax being imported: what needs it is brought when it is first used.
"""

from typing import TYPE_CHECKING, Any

from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.flops import flops_per_token

if TYPE_CHECKING:
    from llmjax.model.apart import one_by_one
    from llmjax.model.cache import Cache
    from llmjax.model.model import Model
    from llmjax.model.plan import Params

__all__ = ["Cache", "Model", "ModelConfig", "Params", "flops_per_token", "one_by_one", "resolve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"llmjax.model has no {name}")
    from llmjax.model import apart, cache, model, plan

    return {
        "Cache": cache.Cache,
        "Model": model.Model,
        "Params": plan.Params,
        "one_by_one": apart.one_by_one,
    }[name]
