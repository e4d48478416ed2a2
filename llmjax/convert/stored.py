"""A run's parameters as its checkpoint holds them, and with their adapters merged."""

import logging
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from llmjax.convert.hf.mapping import host
from llmjax.convert.tensors import FLOATS, check_range
from llmjax.convert.trees import flatten, unflatten
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig, merged
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.run.folder import Run
from llmjax.run.network import chosen_step, read_network, stored_network

log = logging.getLogger(__name__)
HEADS = "heads"
"""Under which the parameters of tasks lie beside the model's."""


def stored_params(run: Run, shape: ModelConfig, step: int | None) -> Params:
    """A run's parameters in the host's memory, in the dtypes that they are stored in.

    Those of heads, if there are any, lie under "heads".

    Args:
      run: the run.
      shape: its model's.
      step: which checkpoint; None as `chosen_step`.

    Raises:
      UserError: as `chosen_step` and `read_network`.
    """
    one = jax.sharding.SingleDeviceSharding(host())
    found = chosen_step(run, run.config(), step)
    there = stored_network(run, found)
    wanted = dict(flatten(Model(shape).abstract_params()))
    wanted |= {path: leaf for path, leaf in there.items() if path.startswith(f"{HEADS}.")}

    def held(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, there.get(path, leaf).dtype, sharding=one)

    abstract = unflatten({path: held(path, leaf) for path, leaf in wanted.items()})
    return read_network(run, found, abstract)


def merged_params(
    run: Run, shape: ModelConfig, step: int | None, dtype: str | None = None
) -> Params:
    """As `stored_params`, with adapters merged: those of `without_adapters(shape)`, and heads.

    Args:
      run: the run.
      shape: its model's.
      step: which checkpoint; None as `chosen_step`.
      dtype: what they will be written in; None for what they are stored in.

    Raises:
      UserError: as `stored_params` and `merge`.
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
    """As `merged`, of arrays in the host's memory.

    Args:
      params: nested dict; where it has adapters they lie beside the kernel.
      lora: what they were made by.
      wide: keep the sums in float32; else they are brought into the dtype of W.

    Raises:
      UserError: a sum is beyond what float16 holds.
    """
    found = merged(_widened(params) if wide else params, lora)
    for path, leaf in flatten(found):
        if leaf.dtype == FLOATS["float16"]:
            check_range(path, np.asarray(leaf), FLOATS["float32"])
    return found


def _widened(params: Params) -> Params:
    """The same with kernels in float32 where they have adapters."""
    wide = {"kernel"} if "lora_a" in params else set()
    return {
        name: _widened(value)
        if isinstance(value, dict)
        else (value.astype(np.float32) if name in wide else value)
        for name, value in params.items()
    }
