"""A run's parameters: as its checkpoint holds them, or with adapters merged."""

import logging
from dataclasses import replace

import jax
import numpy as np

from llmjax.convert.tensors import FLOATS, check_overflow
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig, merged
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.model.trees import flatten, unflatten
from llmjax.run.folder import Run
from llmjax.run.parameters import read_parameters, resolve_step, stored_parameters

log = logging.getLogger(__name__)
HEADS = "heads"
"""Key of the tasks' parameters beside the model's."""


def host() -> jax.Device:
    """The device of the host's memory: a model that is converted need not fit a GPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return jax.local_devices()[0]


def stored_params(run: Run, shape: ModelConfig, step: int | None) -> Params:
    """A run's parameters in the host's memory, in the dtypes that they are stored in.

    Those of heads, if there are any, lie under "heads".

    Args:
      run: the run.
      shape: its model's.
      step: which checkpoint; None as `resolve_step`.

    Raises:
      UserError: as `resolve_step` and `read_parameters`.
    """
    sharding = jax.sharding.SingleDeviceSharding(host())
    step = resolve_step(run, run.config(), step)
    stored = stored_parameters(run, step)
    wanted = dict(flatten(Model(shape).abstract_params()))
    wanted |= {path: leaf for path, leaf in stored.items() if path.startswith(f"{HEADS}.")}
    abstract = {
        path: jax.ShapeDtypeStruct(leaf.shape, stored.get(path, leaf).dtype, sharding=sharding)
        for path, leaf in wanted.items()
    }
    return read_parameters(run, step, unflatten(abstract))


def merged_params(
    run: Run, shape: ModelConfig, step: int | None, dtype: str | None = None
) -> Params:
    """As `stored_params`, with adapters merged: those of `without_adapters(shape)`, and heads.

    `dtype` is what they will be written in; None for what they are stored in.
    """
    params = stored_params(run, shape, step)
    return params if shape.lora is None else merge(params, shape.lora, wide=dtype is not None)


def model_params(
    run: Run, shape: ModelConfig, step: int | None, dtype: str | None = None
) -> Params:
    """As `merged_params`, without heads; a warning says so where there are any."""
    params = merged_params(run, shape, step, dtype)
    if heads := params.pop(HEADS, None):
        log.warning("%s: heads (%s) are not written in this format", run.folder, ", ".join(heads))
    return params


def without_adapters(shape: ModelConfig) -> ModelConfig:
    """The architecture of a model whose adapters are merged."""
    return replace(shape, lora=None)


def merge(params: Params, lora: LoraConfig, *, wide: bool = False) -> Params:
    """As `merged`, of arrays in the host's memory; `wide` keeps the sums in float32.

    Raises:
      UserError: a sum overflows float16.
    """
    sums = merged(_widened(params) if wide else params, lora)
    for path, leaf in flatten(sums):
        if leaf.dtype == FLOATS["float16"]:
            check_overflow(path, np.asarray(leaf), FLOATS["float32"])
    return sums


def _widened(params: Params) -> Params:
    """With kernels in float32 where they have adapters."""
    wide = {"kernel"} if "lora_a" in params else set()
    return {
        name: _widened(value)
        if isinstance(value, dict)
        else (value.astype(np.float32) if name in wide else value)
        for name, value in params.items()
    }
