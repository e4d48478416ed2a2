"""Parameters by kind, and bytes of the train state on a device."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import NamedTuple

import jax

from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.params import ParamSpec, param_specs
from llmjax.optimizers.config import OptimizerConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.spikes import SpikesConfig, skip_spikes
from llmjax.optimizers.trainable import (
    TrainableConfig,
    TrainHeads,
    lr_multipliers,
    trainable_mask,
)
from llmjax.parallel.mesh import LOGICAL_TO_MESH, WEIGHT_AXES
from llmjax.run.config.schema import Config
from llmjax.run.planning.traced import abstract_mesh, device_bytes, sharded_params
from llmjax.state import Tree, split


class Kind(StrEnum):
    """What a parameter belongs to."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    MLP = "mlp"
    EXPERTS = "experts"
    HEAD = "lm_head"
    ADAPTER = "adapters"
    OTHER = "norms and others"


def kind_of(path: tuple[str, ...]) -> Kind:
    """The kind of the parameter at a path of the tree."""
    module = next((name for name in reversed(path[:-1]) if name in _MODULES), path[0])
    if any(name.startswith("lora") for name in path):
        return Kind.ADAPTER
    return _MODULES.get(module, Kind.OTHER)


_MODULES = {
    "embedding": Kind.EMBEDDING,
    "positions": Kind.EMBEDDING,
    "token_types": Kind.EMBEDDING,
    "attention": Kind.ATTENTION,
    "cross_attention": Kind.ATTENTION,
    "mlp": Kind.MLP,
    "shared": Kind.MLP,
    "experts": Kind.EXPERTS,
    "unembedding": Kind.HEAD,
    "unembedding_bias": Kind.HEAD,
    "transform": Kind.HEAD,
}


def parameters_by_kind(config: ModelConfig, compute: ComputeConfig) -> dict[Kind, int]:
    """The number of parameters of each kind; tied embeddings count once, as embedding."""
    counts = dict.fromkeys(Kind, 0)
    for spec in param_specs(config, compute).specs:
        counts[kind_of(spec.path)] += math.prod(spec.shape.shape)
    return {kind: count for kind, count in counts.items() if count}


class Gathered(NamedTuple):
    """Numbers of parameters that a device computes with, when weights are gathered."""

    outside: float
    """Of layers."""
    layers: float
    """Without experts."""
    experts: float


def gathered_numbers(specs: Iterable[ParamSpec], sizes: Mapping[str, int]) -> Gathered:
    """Numbers of gathered parameters.

    Args:
      specs: of the parameters.
      sizes: mesh axis -> devices.
    """
    outside = layers = experts = 0.0
    for spec in specs:
        split = [axis for axis in spec.axes if axis is not None and axis not in WEIGHT_AXES]
        parts = math.prod(sizes[name] for axis in split for name in LOGICAL_TO_MESH[axis])
        count = math.prod(spec.shape.shape) / parts
        if "experts" in spec.axes:
            experts += count
        elif "layers" in spec.axes:
            layers += count
        else:
            outside += count
    return Gathered(outside, layers, experts)


@dataclass(frozen=True)
class StateBytes:
    """Bytes on one device."""

    parameters: float
    trained: float
    """Of `parameters`, those that have gradients."""
    optimizer: float
    checkpoint: float
    """Of all devices: parameters and optimizer state."""
    gathered: Gathered


def state_bytes(config: Config, model: ModelConfig, sizes: Mapping[str, int]) -> StateBytes:
    """The train state of a config on a mesh without devices.

    Args:
      config: of the run.
      model: its resolved model.
      sizes: mesh axis -> devices.
    """
    optimizer = replace(config.optimizer, accumulate=1)
    names = tuple(sizes.items())
    return _state_bytes(model, optimizer, config.spikes, config.trainable, config.steps, names)


@cache
def _state_bytes(
    model: ModelConfig,
    optimizer: OptimizerConfig,
    spikes: SpikesConfig,
    trainable: TrainableConfig,
    steps: int,
    sizes: tuple[tuple[str, int], ...],
) -> StateBytes:
    compute, mesh = ComputeConfig(), abstract_mesh(dict(sizes), "cpu")
    with jax.sharding.use_abstract_mesh(mesh):
        params = sharded_params(model, compute, mesh)
        axes = param_specs(model, compute).tree(lambda spec: spec.axes)
        trained, axes = _trained(trainable, model, params, axes)
        updates = skip_spikes(make_optimizer(optimizer, steps, axes), spikes)
        state = jax.eval_shape(updates.init, trained)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((trained, state)))
    gathered = gathered_numbers(param_specs(model, compute).specs, dict(sizes))
    return StateBytes(_bytes(params), _bytes(trained), _bytes(state), float(total), gathered)


def _trained(
    trainable: TrainableConfig, model: ModelConfig, params: Tree, axes: Tree
) -> tuple[Tree, Tree]:
    """The parameters that are trained, and their logical axes."""
    if isinstance(trainable, TrainHeads):  # those of tasks, which are not planned
        return {}, {}
    mask = trainable_mask(lr_multipliers(trainable, model, params))
    return split(params, mask)[0], split(axes, mask)[0]


def _bytes(tree: object) -> float:
    return sum(map(device_bytes, jax.tree.leaves(tree)))
