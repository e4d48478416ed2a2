"""Read a run's parameters on the host, optionally with adapters merged."""

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
from llmjax.parallel.devices import host_device
from llmjax.run.folder import Run
from llmjax.run.parameters import read_parameters, resolve_step, stored_parameters

log = logging.getLogger(__name__)
MULTI_TOKEN = "multi_token"
"""Key of the parameters that predict tokens after next, in training only."""
HEADS = "heads"
"""Key of the task heads' parameters, beside the model's."""


def stored_params(run: Run, shape: ModelConfig, step: int | None) -> Params:
    """A run's parameters in host memory, in their stored dtypes.

    The parameters of heads, if any, are under "heads".

    Args:
      run: the run.
      shape: the architecture of its model.
      step: the checkpoint; None as in `resolve_step`.

    Raises:
      UserError: as `resolve_step` and `read_parameters`.
    """
    sharding = jax.sharding.SingleDeviceSharding(host_device())
    step = resolve_step(run, run.config(), step)
    stored = stored_parameters(run, step)
    leaves = dict(flatten(Model(shape).abstract_params()))
    leaves |= {path: leaf for path, leaf in stored.items() if path.startswith(f"{HEADS}.")}
    abstract = {
        path: jax.ShapeDtypeStruct(leaf.shape, stored.get(path, leaf).dtype, sharding=sharding)
        for path, leaf in leaves.items()
    }
    return read_parameters(run, step, unflatten(abstract))


def merged_params(
    run: Run,
    shape: ModelConfig,
    step: int | None,
    dtype: str | None = None,
    *,
    multi_token: bool = False,
) -> Params:
    """As `stored_params`, with adapters merged: parameters of `without_adapters(shape)`, and heads.

    Args:
      run: the run.
      shape: the architecture of its model.
      step: the checkpoint; None as in `resolve_step`.
      dtype: that they will be written in; None for the stored dtype.
      multi_token: whether to keep what predicts tokens after next, which is else left out with a
        warning.
    """
    params = stored_params(run, shape, step)
    if not multi_token and params.pop(MULTI_TOKEN, None) is not None:
        log.warning("%s: the module for tokens after next is not exported", run.folder)
    return params if shape.lora is None else merge(params, shape.lora, wide=dtype is not None)


def model_params(
    run: Run, shape: ModelConfig, step: int | None, dtype: str | None = None
) -> Params:
    """As `merged_params`, without heads; logs a warning if there are any."""
    params = merged_params(run, shape, step, dtype)
    if heads := params.pop(HEADS, None):
        log.warning("%s: heads (%s) are not written in this format", run.folder, ", ".join(heads))
    return params


def without_adapters(shape: ModelConfig) -> ModelConfig:
    """The architecture after merging adapters, and without what only training uses."""
    return replace(shape, lora=None, multi_token=False, multi_token_experts=False)


def merge(params: Params, lora: LoraConfig, *, wide: bool = False) -> Params:
    """Merge adapters into kernels in host memory; `wide` keeps the sums in float32.

    Raises:
      UserError: a sum overflows float16.
    """
    sums = merged(_widened(params) if wide else params, lora)
    for path, leaf in flatten(sums):
        if leaf.dtype == FLOATS["float16"]:
            check_overflow(path, np.asarray(leaf), FLOATS["float32"])
    return sums


def _widened(params: Params) -> Params:
    """The parameters with adapted kernels cast to float32."""
    wide = {"kernel"} if "lora_a" in params else set()
    return {
        name: _widened(value)
        if isinstance(value, dict)
        else (value.astype(np.float32) if name in wide else value)
        for name, value in params.items()
    }
