"""Layers after pooling: projections, layer norms and normalization of embeddings.

They are sentence-transformers' modules Dense, LayerNorm and Normalize. Their few small arrays are
stored in origin.json, as base64 of float32.
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

LayerKind = Literal["dense", "layernorm", "normalize"]
Nonlinearity = Literal["identity", "tanh", "relu", "gelu", "silu", "sigmoid"]
ARRAYS: dict[LayerKind, tuple[str, ...]] = {
    "dense": ("weight", "bias", "residual"),
    "layernorm": ("weight", "bias"),
    "normalize": (),
}
"""The arrays of each kind: dense weight and residual [outputs, inputs], the others [width]."""
LAYERNORM_EPSILON = 1e-5
"""Of torch.nn.LayerNorm."""
MIN_NORM = 1e-12
"""Of torch.nn.functional.normalize."""


@dataclass(frozen=True)
class EmbeddingLayer:
    """A layer after pooling.

    Attributes:
      kind: dense: W x + b, then a nonlinearity; layernorm; normalize: L2.
      activation: of a dense layer.
      residual: whether a dense layer adds its input, projected by the array `residual` if any.
      arrays: float32.
    """

    kind: LayerKind
    activation: Nonlinearity = "identity"
    residual: bool = False
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def output_width(self, width: int) -> int:
        """Return the output width for an input width.

        Raises:
          UserError: the shapes of the arrays are inconsistent or do not match the input width.
        """
        shapes = {name: array.shape for name, array in self.arrays.items()}
        out = shapes["weight"][0] if self.kind == "dense" and "weight" in shapes else width
        expected: dict[str, tuple[int, ...]] = {"bias": (out,)}
        required = {"dense": {"weight"}, "layernorm": {"weight", "bias"}}.get(self.kind, set())
        if self.kind == "dense":
            expected |= {"weight": (out, width), "residual": (out, width)}
            required |= {"residual"} if self.residual and out != width else set()
        else:
            expected["weight"] = (width,)
        fits = all(shapes[name] == expected[name] for name in shapes)
        if not fits or not required <= shapes.keys() <= set(ARRAYS[self.kind]):
            raise UserError(
                f"{self.kind} after pooling", f"has arrays {shapes} for vectors of width {width}"
            )
        return out

    def to_json(self) -> dict[str, Any]:
        """Convert to the form of origin.json."""
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


def layer_from_json(value: dict[str, Any]) -> EmbeddingLayer:
    """Restore a layer from `EmbeddingLayer.to_json`.

    Raises:
      UserError: the data is damaged.
    """
    fix = "import the model again"
    try:
        arrays = {
            name: np.frombuffer(base64.b64decode(array["float32"], validate=True), "<f4").reshape(
                array["shape"]
            )
            for name, array in value["arrays"].items()
        }
        kind, activation = value["kind"], value["activation"]
        layer = EmbeddingLayer(kind, activation, bool(value["residual"]), arrays)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise UserError("origin.json", f"has a damaged embedding layer: {error!r}", fix) from error
    if kind not in get_args(LayerKind) or activation not in get_args(Nonlinearity):
        raise UserError("origin.json", "has an unknown embedding layer", fix)
    return layer


def apply_layers(layers: Sequence[EmbeddingLayer], vectors: jax.Array) -> jax.Array:
    """Apply layers to vectors, float32 [B, W]; the width may change."""
    for layer in layers:
        vectors = _apply(layer, vectors)
    return vectors


def _apply(layer: EmbeddingLayer, x: jax.Array) -> jax.Array:
    arrays = {name: jnp.asarray(array) for name, array in layer.arrays.items()}
    match layer.kind:
        case "normalize":
            return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), MIN_NORM)
        case "layernorm":
            mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
            x = (x - mean) / jnp.sqrt(variance + LAYERNORM_EPSILON)
            return x * arrays["weight"] + arrays["bias"]
        case "dense":
            out = _product(arrays["weight"], x)
            out = _activate(layer.activation, out + arrays.get("bias", 0))
            if layer.residual:
                out += _product(arrays["residual"], x) if "residual" in arrays else x
            return out


def _product(matrix: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("oi,bi->bo", matrix, x, precision="highest")


def _activate(name: Nonlinearity, x: jax.Array) -> jax.Array:
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
