"""Which parameters are trained, and their learning rate multipliers."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import numpy as np

from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import stacked_layers
from llmjax.optimizers.config import Tree

Path = tuple[str, ...]
Groups = dict[Path, tuple[int, ...]]
"""(stack, group of its layers) -> layer numbers."""
ADAPTERS = ("lora_a", "lora_b")


@dataclass(frozen=True)
class TrainAll:
    """Trains everything; in a model with adapters, only these and the heads."""

    layer_decay: float = 1.0
    """A layer's learning rate as a fraction of that of the layer above; embeddings are below the
    first layer (discriminative fine-tuning, arXiv:1801.06146)."""
    kind: Literal["all"] = "all"


@dataclass(frozen=True)
class TrainHeads:
    """Trains only the tasks' heads."""

    kind: Literal["heads"] = "heads"


@dataclass(frozen=True)
class TrainByPattern:
    """Trains the tasks' heads, and the parameters whose names match."""

    patterns: tuple[str, ...] = ()
    """Globs such as encoder.layers.5.* or *.attention.query.*; layers count from 0."""
    kind: Literal["chosen"] = "chosen"


TrainableConfig: TypeAlias = TrainAll | TrainHeads | TrainByPattern


def trainable_problems(config: TrainableConfig, adapters: bool) -> Iterator[str]:
    """Yields what is wrong with the values, for a model with or without adapters."""
    if isinstance(config, TrainAll) and not 0 < config.layer_decay <= 1:
        yield f"trainable.layer_decay: {config.layer_decay} is not above 0 and at most 1"
    if isinstance(config, TrainByPattern) and not config.patterns:
        yield "trainable.patterns: empty; give at least one, or train heads"
    if adapters and config != TrainAll():
        yield f"trainable: {config.kind} does not go with model.lora: only the adapters are trained"


def lr_multipliers(config: TrainableConfig, model: ModelConfig, shapes: Tree) -> Tree:
    """Returns the factor of each parameter's learning rate.

    Args:
      config: which parameters are trained.
      model: the model's config.
      shapes: tree of the parameters; heads are under "heads", adapters named lora_a and lora_b.

    Returns:
      Tree of float32 arrays: [], or [layers, 1, ...] where layers differ; 0: not trained.

    Raises:
      UserError: a pattern matches no parameter, or nothing is trained.
    """
    leaves, treedef = jax.tree.flatten_with_path(shapes)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    paths = [tuple(name.split(".")) for name in names]
    adapters = any(path[-1] in ADAPTERS for path in paths)
    unused = set(config.patterns) if isinstance(config, TrainByPattern) else set()
    groups = stacked_layers(model)
    multipliers = []
    for path, (_, leaf) in zip(paths, leaves, strict=True):
        factor: float | np.ndarray
        if path[0] == "heads" or path[-1] in ADAPTERS:
            factor = 1.0
        elif adapters or isinstance(config, TrainHeads):
            factor = 0.0
        elif isinstance(config, TrainByPattern):
            factor = _matches(path, groups, config.patterns, unused)
        else:
            factor = _decayed(path, groups, config.layer_decay, model)
        multipliers.append(_shaped(factor, leaf.ndim))
    if unused:
        raise UserError(
            f"trainable.patterns: {', '.join(sorted(unused))}",
            "matches no parameter",
            f"they are named like {', '.join(sorted(set(names))[:4])}",
        )
    if not any(np.any(factor) for factor in multipliers):
        reason = "nothing is trained: no task here has a head"
        raise UserError(f"trainable: {config.kind}", reason, "train all, chosen, or use model.lora")
    return jax.tree.unflatten(treedef, multipliers)


def trainable_mask(multipliers: Tree) -> Tree:
    """Returns a tree of bools: whether any layer of a parameter is trained."""
    return jax.tree.map(lambda factor: bool(np.any(factor)), multipliers)


def _matches(
    path: Path, groups: Groups, patterns: tuple[str, ...], unused: set[str]
) -> float | np.ndarray:
    """1 where a pattern matches the parameter's name, else 0; in a stack, by layer."""

    def matches(*name: str) -> float:
        matched = {glob for glob in patterns if fnmatch.fnmatchcase(".".join(name), glob)}
        unused.difference_update(matched)
        return float(bool(matched))

    if path[:2] not in groups:
        return matches(*path)
    stack, rest = path[0], path[2:]
    return np.array([matches(stack, "layers", str(n), *rest) for n in groups[path[:2]]])


def _decayed(path: Path, groups: Groups, decay: float, model: ModelConfig) -> float | np.ndarray:
    """decay^(layers above the parameter); the decoder is above the encoder."""
    encoder, decoder = model.num_encoder_layers, model.num_decoder_layers
    if path[:2] in groups:
        layers = decoder if path[0] == "decoder" else decoder + encoder
        return decay ** (layers - np.array(groups[path[:2]]))
    below = path[0] == "embedding" or path[1:2] in (("positions",), ("token_types",))
    return decay ** (decoder + encoder + 1) if below or path[1:2] == ("embed_norm",) else 1.0


def _shaped(factor: float | np.ndarray, rank: int) -> np.ndarray:
    """[], or [layers, 1, ...] for a parameter of this rank."""
    values = np.asarray(factor, np.float32)
    if values.ndim and np.all(values == values[0]):
        values = values[0]
    return values if not values.ndim else values.reshape(-1, *[1] * (rank - 1))
