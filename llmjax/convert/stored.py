"""A run's parameters as its checkpoint holds them, and with their adapters merged."""

import logging
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from llmjax.checkpoint.params import stored_leaves
from llmjax.checkpoint.reading import read_params, whole_step
from llmjax.convert.mapping import flatten, host, unflatten
from llmjax.convert.tensors import check_range
from llmjax.model import Model, ModelConfig, Params
from llmjax.model.lora_config import LoraConfig
from llmjax.run import Run

log = logging.getLogger(__name__)
HEADS = "heads"
"""Under which the parameters of tasks lie beside the model's."""


def stored_params(run: Run, shape: ModelConfig, step: int | None) -> Params:
    """A checkpoint's parameters in the host's memory, in the dtypes that they are stored in.

    Those of heads, if there are any, lie under "heads".

    Raises:
      UserError: as `whole_step` and `read_params`.
    """
    one = jax.sharding.SingleDeviceSharding(host())
    found = whole_step(run.checkpoints, step)
    there = stored_leaves(run.checkpoints, found)
    wanted = dict(flatten(Model(shape).abstract_params()))
    wanted |= {path: leaf for path, leaf in there.items() if path.startswith(f"{HEADS}.")}

    def held(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, there.get(path, leaf).dtype, sharding=one)

    tree = unflatten({path: held(path, leaf) for path, leaf in wanted.items()})
    params: Params = read_params(run.checkpoints, found, tree)
    return params


def merged_params(
    run: Run, shape: ModelConfig, step: int | None, dtype: str | None = None
) -> Params:
    """As `stored_params`, with adapters merged: those of `without_adapters(shape)`, and heads.

    Args:
      run: the run.
      shape: its model's.
      step: which checkpoint; None for the newest whole one.
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
    """Parameters with W + alpha / rank A B in the place of W, A and B; summed in float32.

    Args:
      params: nested dict; where it has adapters they lie beside the kernel.
      lora: what they were made by.
      wide: keep the sums in float32; else they are brought into the dtype of W.

    Raises:
      UserError: a sum is beyond what float16 holds.
    """
    found: Params = {}
    for name, value in params.items():
        if not isinstance(value, dict):
            found[name] = value
        elif "lora_a" in value:
            kernel = _summed(name, value, lora.scale, wide)
            kept = {key: leaf for key, leaf in value.items() if not key.startswith("lora_")}
            found[name] = kept | {"kernel": kernel}
        else:
            found[name] = merge(value, lora, wide=wide)
    return found


def _summed(name: str, dense: Params, scale: float, wide: bool) -> jax.Array:
    """One kernel [layers, *inner, *outer], layer by layer."""
    kernel, first, second = (np.asarray(dense[key]) for key in ("kernel", "lora_a", "lora_b"))
    dtype = np.dtype(np.float32) if wide else kernel.dtype
    out = np.empty(kernel.shape, dtype)
    for layer, place in enumerate(out):
        narrow = first[layer].astype(np.float32).reshape(-1, first.shape[-1])
        spread = second[layer].astype(np.float32).reshape(second.shape[1], -1)
        product = np.float32(scale) * (narrow @ spread)
        place[...] = kernel[layer].astype(np.float32) + product.reshape(place.shape)
    check_range(name, out, np.dtype(np.float32))
    return jax.device_put(out, host())
