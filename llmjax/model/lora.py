"""Low-rank adapters (LoRA, arXiv:2106.09685): their config, and merging into the weights."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

Target = Literal[
    "query",
    "key",
    "value",
    "output_gate",
    "out",
    "gate",
    "up",
    "down",
    "query_down",
    "kv_down",
    "key_rope",
]


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of projections (LoRA, arXiv:2106.09685): W + alpha / rank A B. Only they and the
    tasks' heads are trained; everything else has no optimizer state."""

    rank: int = 8
    """Columns of A and rows of B."""
    alpha: float = 16.0
    """Scale of the adapter, divided by the rank."""
    targets: tuple[Target, ...] = ("query", "value")
    """Projections with adapters, in every layer that has them: query, key, value, output_gate and
    out of attention, linear or not; gate, up and down of the MLP, of a shared expert, and of each
    routed expert; query_down, kv_down and key_rope of latent attention."""
    kind: Literal["lora"] = "lora"

    @property
    def scale(self) -> float:
        """Factor of the adapter's product."""
        return self.alpha / self.rank


def lora_problems(lora: LoraConfig, missing: Mapping[str, str]) -> Iterator[str]:
    """Yields what is wrong with the values.

    `missing`: projections that the model lacks, and what it has instead.
    """
    if lora.rank < 1:
        yield f"lora.rank {lora.rank} is not positive"
    if not 0 < lora.alpha < 1e6:
        yield f"lora.alpha {lora.alpha} is not a positive number"
    if not lora.targets:
        yield "lora.targets is empty"
    for name in lora.targets:
        if name in missing:
            yield f"lora.targets has {name}, but the model's {missing[name]} has none"


def merged(params: Mapping[str, Any], lora: LoraConfig) -> dict[str, Any]:
    """Adds scale A B to each kernel, in float32, and removes the adapters.

    See arXiv:2106.09685, section 4.1. Kernels keep their dtype.

    Args:
      params: with or without adapters, layers stacked.
      lora: the adapters' config.
    """
    merged_params: dict[str, Any] = {}
    for name, value in params.items():
        if name in ("lora_a", "lora_b"):
            continue
        merged_params[name] = merged(value, lora) if isinstance(value, Mapping) else value
    if "lora_a" in params:
        kernel, a, b = (jnp.asarray(params[name]) for name in ("kernel", "lora_a", "lora_b"))
        is_stack = a.ndim == b.ndim == kernel.ndim  # of experts
        multiply = jax.vmap(partial(_product, is_stack=is_stack))
        product = multiply(a.astype(jnp.float32), b.astype(jnp.float32))
        total = kernel.astype(jnp.float32) + lora.scale * product
        merged_params["kernel"] = total.astype(kernel.dtype)
    return merged_params


def _product(a: jax.Array, b: jax.Array, is_stack: bool) -> jax.Array:
    """[*inner, r] and [r, *outer] -> [*inner, *outer]; of experts, [n, inner, r] and [n, r, outer]
    -> [n, inner, outer]."""
    if is_stack:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)
