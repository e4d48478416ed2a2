"""Which parameters are trained, and each one's learning rate relative to the others."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import numpy as np

from llmjax.errors import UserError
from llmjax.optimizers.param_kinds import Axes, Tree

Path = tuple[str, ...]
ADAPTERS = ("lora_a", "lora_b")


@dataclass(frozen=True)
class TrainAll:
    """Trains everything (of a model with adapters: these and the heads)."""

    layer_decay: float = 1.0
    """Each layer has this fraction of the learning rate of the one above it, embeddings below the
    first (discriminative fine-tuning, arXiv:1801.06146)."""
    kind: Literal["all"] = "all"


@dataclass(frozen=True)
class TrainHeads:
    """Trains the tasks' heads alone."""

    kind: Literal["heads"] = "heads"


@dataclass(frozen=True)
class TrainByPattern:
    """Trains the tasks' heads, and the parameters whose names match."""

    patterns: tuple[str, ...] = ()
    """With * for anything, as encoder.layers.5.* or *.attention.query.*; layers count from 0."""
    kind: Literal["chosen"] = "chosen"


TrainableConfig: TypeAlias = TrainAll | TrainHeads | TrainByPattern


def trainable_problems(config: TrainableConfig, adapters: bool) -> Iterator[str]:
    """Everything wrong with the values, for a model with adapters or without."""
    if isinstance(config, TrainAll) and not 0 < config.layer_decay <= 1:
        yield f"tune.layer_decay: {config.layer_decay} is not above 0 and at most 1"
    if isinstance(config, TrainByPattern) and not config.patterns:
        yield "tune.patterns: empty; give at least one, or tune heads"
    if adapters and config != TrainAll():
        yield f"tune: {config.kind} does not go with model.lora: only the adapters are trained"


def lr_multipliers(config: TrainableConfig, shapes: Tree, logical_axes: Tree) -> Tree:
    """The factor of each parameter's learning rate.

    Args:
      config: which parameters are trained.
      shapes: the parameters' tree; heads lie under "heads", adapters are named lora_a and lora_b.
      logical_axes: their axes.

    Returns:
      The tree of float32 arrays: [], or [layers, 1, ...] where layers differ. All 0: not trained.

    Raises:
      UserError: a pattern matches no parameter, or nothing is trained.
    """
    leaves, treedef = jax.tree.flatten_with_path(shapes)
    axes = jax.tree.leaves(logical_axes, is_leaf=lambda item: isinstance(item, tuple))
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    paths = [tuple(name.split(".")) for name in names]
    adapters = any(path[-1] in ADAPTERS for path in paths)
    unused = set(config.patterns) if isinstance(config, TrainByPattern) else set()
    depths = _depths(paths, [leaf for _, leaf in leaves])
    multipliers = []
    for path, (_, leaf), leaf_axes in zip(paths, leaves, axes, strict=True):
        factor: float | np.ndarray
        if path[0] == "heads" or path[-1] in ADAPTERS:
            factor = 1.0
        elif adapters or isinstance(config, TrainHeads):
            factor = 0.0
        elif isinstance(config, TrainByPattern):
            factor = _matches(path, leaf, leaf_axes, config.patterns, unused)
        else:
            factor = _decayed(path, leaf, config.layer_decay, *depths)
        multipliers.append(_shaped(factor, leaf.ndim))
    if unused:
        raise UserError(
            f"tune.patterns: {', '.join(sorted(unused))}",
            "matches no parameter",
            f"they are named like {', '.join(sorted(set(names))[:4])}",
        )
    if not any(np.any(factor) for factor in multipliers):
        reason = "nothing is trained: no task here has a head"
        raise UserError(f"tune: {config.kind}", reason, "tune all, chosen, or use model.lora")
    return jax.tree.unflatten(treedef, multipliers)


def trainable_mask(multipliers: Tree) -> Tree:
    """The tree of bools: whether a parameter, or some layers of it, is trained."""
    return jax.tree.map(lambda factor: bool(np.any(factor)), multipliers)


def _matches(
    path: Path, leaf: Any, axes: Axes, patterns: tuple[str, ...], unused: set[str]
) -> float | np.ndarray:
    """1 where a pattern matches the parameter's name; for each layer of a stack."""

    def matches(name: str) -> float:
        hits = {pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)}
        unused.difference_update(hits)
        return float(bool(hits))

    if axes[:1] != ("layers",):
        return matches(".".join(path))
    at = path.index("layers") + 1
    names = [".".join((*path[:at], str(n), *path[at:])) for n in range(leaf.shape[0])]
    return np.array([matches(name) for name in names])


def _depths(paths: list[Path], leaves: list[Any]) -> tuple[int, int]:
    """Layers of the encoder and of the decoder."""
    layers = {"encoder": 0, "decoder": 0}
    for path, leaf in zip(paths, leaves, strict=True):
        if path[:2] in (("encoder", "layers"), ("decoder", "layers")):
            layers[path[0]] = leaf.shape[0]
    return layers["encoder"], layers["decoder"]


def _decayed(path: Path, leaf: Any, decay: float, encoder: int, decoder: int) -> float | np.ndarray:
    """decay to the power of how many layers lie above, the decoder above the encoder."""
    if path[:2] == ("decoder", "layers"):
        return decay ** (decoder - np.arange(leaf.shape[0]))
    if path[:2] == ("encoder", "layers"):
        return decay ** (decoder + encoder - np.arange(leaf.shape[0]))
    below = path[0] == "embedding" or path[1:2] in (("positions",), ("token_types",))
    return decay ** (decoder + encoder + 1) if below or path[1:2] == ("embed_norm",) else 1.0


def _shaped(factor: float | np.ndarray, rank: int) -> np.ndarray:
    """[], or [layers, 1, ...] for a parameter of that rank."""
    values = np.asarray(factor, np.float32)
    if values.ndim and np.all(values == values[0]):
        values = values[0]
    return values if not values.ndim else values.reshape(-1, *[1] * (rank - 1))
