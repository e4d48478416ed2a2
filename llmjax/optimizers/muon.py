"""Muon (Jordan et al. 2024), with each matrix of a stack orthogonalized by itself.

`optax.contrib.muon` multiplies a sharded matrix by its own transpose, which Explicit sharding
refuses. Here all-to-alls first distribute the stack as unsplit matrices: no matrix is computed
twice and no device holds more than its share of the stack.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from llmjax.optimizers.config import OptimizerConfig, Tree
from llmjax.optimizers.param_kinds import STACKED, ParamKind, param_kinds
from llmjax.parallel import mesh
from llmjax.parallel.mesh import WEIGHT_AXES, Axes
from llmjax.parallel.steps import leading_steps

# f(x) = a x + b x^3 + c x^5, steep at 0 and near 1 elsewhere: singular values end up in 0.7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class MuonConfig(OptimizerConfig):
    """Muon (Jordan et al. 2024): orthogonalized momentum for matrices, AdamW for the rest.

    Updates are scaled to AdamW's root mean square (arXiv:2502.16982), so that both share the
    learning rate and weight decay.
    """

    momentum: float = 0.95
    """Decay of the Nesterov momentum of matrices."""
    newton_schulz_steps: int = 5
    """Newton-Schulz iterations of the orthogonalization."""
    update_rms: float = 0.2
    """Root mean square of a matrix's update, before the learning rate."""
    beta1: float = 0.9
    """AdamW's, for embeddings, norms and biases."""
    beta2: float = 0.95
    """AdamW's, for embeddings, norms and biases."""
    epsilon: float = 1e-8
    """AdamW's, for embeddings, norms and biases."""
    kind: Literal["muon"] = "muon"

    FRACTIONS: ClassVar = ("beta1", "beta2", "momentum")
    POSITIVE: ClassVar = ("epsilon", "update_rms")
    COUNTS: ClassVar = ("newton_schulz_steps",)
    EIGHT_BIT: ClassVar = True

    def direction(self, logical_axes: Tree) -> optax.GradientTransformation:
        by_matrix = optax.chain(
            optax.trace(self.momentum, nesterov=True),
            orthogonalize(self.newton_schulz_steps, self.update_rms, logical_axes),
        )
        rest = optax.scale_by_adam(self.beta1, self.beta2, self.epsilon)
        transforms = dict.fromkeys(ParamKind, rest) | {ParamKind.MATRIX: by_matrix}
        return optax.partition(transforms, param_kinds(logical_axes))


def orthogonalize(
    steps: int, update_rms: float, logical_axes: Tree
) -> optax.GradientTransformation:
    """Replaces each matrix U S V' by approximately U V', scaled to root mean square `update_rms`.

    For an [in, out] matrix the factor is update_rms sqrt(max(in, out)) (arXiv:2502.16982, 2.2).
    """

    def orthogonal(update: Any, axes: Axes) -> Any:
        if isinstance(update, optax.MaskedNode):
            return update
        stacked = sum(axis in STACKED for axis in axes)
        split = 1 if axes[stacked] in WEIGHT_AXES else len(axes) - stacked - 1
        if stacked == 2:  # layers of experts
            return jax.lax.map(lambda layer: _by_matrix(layer, split, steps, update_rms), update)
        stack = _by_matrix(update if stacked else update[None], split, steps, update_rms)
        return stack if stacked else stack[0]

    def masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    return optax.stateless(
        lambda updates, params: jax.tree.map(orthogonal, updates, logical_axes, is_leaf=masked)
    )


def _by_matrix(stack: jax.Array, split: int, steps: int, update_rms: float) -> jax.Array:
    """Orthogonalizes each [in, out] matrix of [n, *in, *out]; *in has `split` dimensions."""
    count, *inner = stack.shape
    rows, columns = math.prod(inner[:split]), math.prod(inner[split:])
    distributed, specs = _distribute(stack)
    flat = newton_schulz(distributed.reshape(-1, rows, columns), steps)
    result = (update_rms * math.sqrt(max(rows, columns)) * flat).reshape(distributed.shape)
    for spec in reversed(specs):
        result = jax.sharding.reshard(result, spec)
    return result[:count]


def _distribute(stack: jax.Array) -> tuple[jax.Array, list[jax.sharding.PartitionSpec]]:
    """Gives each device unsplit matrices, padded to a multiple of the devices.

    Returns:
      The resharded stack, and the partitions to walk back through.
    """
    if not mesh.has_shardings():
        return stack, []
    devices = jax.sharding.get_abstract_mesh()
    specs = leading_steps(jax.typeof(stack).sharding.spec, stack.ndim, devices.axis_names)
    padding = [(0, -stack.shape[0] % devices.size), *[(0, 0)] * (stack.ndim - 1)]
    stack = jnp.pad(stack, padding)
    for spec in specs:
        stack = jax.sharding.reshard(stack, spec)
    return stack, specs


def newton_schulz(stack: jax.Array, steps: int) -> jax.Array:
    """Brings the singular values of each matrix of [n, rows, columns] near 1."""
    rows, columns = stack.shape[1:]
    if rows > columns:
        return newton_schulz(stack.mT, steps).mT
    a, b, c = COEFFICIENTS
    x = stack / (jnp.linalg.norm(stack, axis=(1, 2), keepdims=True) + 1e-8)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x
