"""The Transformer: a config, and pure functions of plain parameters."""

from llmjax.model.cache import Cache
from llmjax.model.config import ModelConfig, resolve
from llmjax.model.flops import flops_per_token
from llmjax.model.model import Model
from llmjax.model.plan import Params

__all__ = ["Cache", "Model", "ModelConfig", "Params", "flops_per_token", "resolve"]
