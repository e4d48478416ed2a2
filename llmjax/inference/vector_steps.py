"""What a published model does with a text's vector after pooling: projections, norms, lengths.

They are the modules Dense, LayerNorm and Normalize of sentence-transformers. Their arrays are few
and small, and are kept in origin.json, as base64 of float32.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.errors import UserError

Kind = Literal["dense", "layernorm", "normalize"]
Nonlinearity = Literal["identity", "tanh", "relu", "gelu", "silu", "sigmoid"]
ARRAYS: dict[Kind, tuple[str, ...]] = {
    "dense": ("weight", "bias", "residual"),
    "layernorm": ("weight", "bias"),
    "normalize": (),
}
"""Arrays that a kind may have: dense weight and residual [outputs, inputs], the others [width]."""
EPSILON = 1e-5
"""Of torch.nn.LayerNorm."""
SHORTEST = 1e-12
"""Of a vector that is divided by its length, as torch.nn.functional.normalize has it."""


@dataclass(frozen=True)
class Step:
    """One of them.

    Attributes:
      kind: dense: W x + b, then a nonlinearity; layernorm: over the vector; normalize: to length 1.
      activation: of a dense one.
      residual: whether a dense one's input (through `residual`, where that is an array) is added.
      arrays: float32.
    """

    kind: Kind
    activation: Nonlinearity = "identity"
    residual: bool = False
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def width(self, width: int) -> int:
        """Of the vectors that become of such of a width.

        Raises:
          UserError: the arrays do not fit together, or are for another width.
        """
        shapes = {name: array.shape for name, array in self.arrays.items()}
        out = shapes["weight"][0] if self.kind == "dense" and "weight" in shapes else width
        wanted: dict[str, tuple[int, ...]] = {"bias": (out,)}
        if self.kind == "dense":
            wanted |= {"weight": (out, width), "residual": (out, width)}
        else:
            wanted["weight"] = (width,)
        needed = {"dense": {"weight"}, "layernorm": {"weight", "bias"}, "normalize": set()}
        if self.kind == "dense" and self.residual and out != width:
            needed["dense"].add("residual")
        fits = all(shapes[name] == wanted[name] for name in shapes)
        if not fits or not needed[self.kind] <= shapes.keys() <= set(ARRAYS[self.kind]):
            raise UserError(
                f"{self.kind} after pooling", f"has arrays {shapes} for vectors of {width}"
            )
        return out

    def to_json(self) -> dict[str, Any]:
        """As origin.json has it."""
        return {
            "kind": self.kind,
            "activation": self.activation,
            "residual": self.residual,
            "arrays": {
                name: {
                    "shape": list(array.shape),
                    "float32": base64.b64encode(array.astype("<f4").tobytes()).decode(),
                }
                for name, array in self.arrays.items()
            },
        }


def step_of(value: dict[str, Any]) -> Step:
    """The step that `Step.to_json` wrote.

    Raises:
      UserError: it is damaged.
    """
    try:
        arrays = {
            name: np.frombuffer(base64.b64decode(one["float32"], validate=True), "<f4").reshape(
                one["shape"]
            )
            for name, one in value["arrays"].items()
        }
        step = Step(value["kind"], value["activation"], bool(value["residual"]), arrays)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise UserError(
            "origin.json", f"has a damaged step: {error!r}", "import the model again"
        ) from error
    if step.kind not in get_args(Kind) or step.activation not in get_args(Nonlinearity):
        raise UserError("origin.json", "has a step that is not known", "import the model again")
    return step


def after(steps: Sequence[Step], vectors: jax.Array) -> jax.Array:
    """Vectors float32 [B, W] after all steps; the width may change."""
    for step in steps:
        vectors = _after_one(step, vectors)
    return vectors


def _after_one(step: Step, x: jax.Array) -> jax.Array:
    arrays = {name: jnp.asarray(array) for name, array in step.arrays.items()}
    match step.kind:
        case "normalize":
            return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), SHORTEST)
        case "layernorm":
            mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
            x = (x - mean) / jnp.sqrt(variance + EPSILON)
            return x * arrays["weight"] + arrays["bias"]
        case "dense":
            found = _product(arrays["weight"], x)
            found = _activated(step.activation, found + arrays.get("bias", 0))
            if step.residual:
                found += _product(arrays["residual"], x) if "residual" in arrays else x
            return found


def _product(matrix: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("oi,bi->bo", matrix, x, precision="highest")


def _activated(name: Nonlinearity, x: jax.Array) -> jax.Array:
    match name:
        case "identity":
            return x
        case "tanh":
            return jnp.tanh(x)
        case "relu":
            return jax.nn.relu(x)
        case "gelu":
            return jax.nn.gelu(x, approximate=False)
        case "silu":
            return jax.nn.silu(x)
        case "sigmoid":
            return jax.nn.sigmoid(x)
