"""Adapters as parameters: laid aside, or added to what they stand beside."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.model.lora_config import LoraConfig


def merged(params: Mapping[str, Any], lora: LoraConfig) -> dict[str, Any]:
    """The parameters of the same model without adapters: each kernel with scale A B added, in
    float32, and then in its own dtype (arXiv:2106.09685, section 4.1).

    Args:
      params: with or without adapters, layers stacked.
      lora: the adapters' config.
    """
    found: dict[str, Any] = {}
    for name, value in params.items():
        if name in ("lora_a", "lora_b"):
            continue
        found[name] = merged(value, lora) if isinstance(value, Mapping) else value
    if "lora_a" in params:
        kernel, a, b = (jnp.asarray(params[name]) for name in ("kernel", "lora_a", "lora_b"))
        added = jax.vmap(_product)(a.astype(jnp.float32), b.astype(jnp.float32))
        total = kernel.astype(jnp.float32) + lora.scale * added
        found["kernel"] = total.astype(kernel.dtype)
    return found


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[*inner, r] and [r, *outer] -> [*inner, *outer]."""
    return jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)
