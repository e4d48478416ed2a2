"""Which parameters learn, and how fast beside the others."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import numpy as np

from llmjax.errors import UserError
from llmjax.optimizers.matrices import Axes, Tree

Path = tuple[str, ...]


@dataclass(frozen=True)
class WholeModel:
    """Everything learns (of a model with adapters: these and the heads)."""

    layer_decay: float = 1.0
    """Each layer learns at this share of the rate of the one above it, embeddings below the first
    (discriminative fine-tuning, arXiv:1801.06146)."""
    kind: Literal["all"] = "all"


@dataclass(frozen=True)
class HeadsOnly:
    """The tasks' heads learn; the model stays as it is."""

    kind: Literal["heads"] = "heads"


@dataclass(frozen=True)
class Chosen:
    """The tasks' heads learn, and the parameters whose names match; the rest stays as it is."""

    patterns: tuple[str, ...] = ()
    """With * for anything, as encoder.layers.5.* or *.attention.query.*; layers count from 0."""
    kind: Literal["chosen"] = "chosen"


TuneConfig: TypeAlias = WholeModel | HeadsOnly | Chosen


def tune_problems(tune: TuneConfig, adapters: bool) -> Iterator[str]:
    """Everything wrong with the values, for a model with adapters or without."""
    if isinstance(tune, WholeModel) and not 0 < tune.layer_decay <= 1:
        yield f"tune.layer_decay: {tune.layer_decay} is not above 0 and at most 1"
    if isinstance(tune, Chosen) and not tune.patterns:
        yield "tune.patterns: empty; give at least one, or tune heads"
    if adapters and tune != WholeModel():
        yield f"tune: {tune.kind} has no meaning beside model.lora: the adapters alone learn"


def shares(tune: TuneConfig, shapes: Tree, logical_axes: Tree) -> Tree:
    """What each parameter's learning rate is multiplied with.

    Args:
      tune: who learns.
      shapes: the parameters' tree; heads lie under "heads", adapters are named lora_a and lora_b.
      logical_axes: their axes.

    Returns:
      The tree of float32 arrays: [], or [layers, 1, ...] where layers differ. All 0: it stays.

    Raises:
      UserError: a pattern matches no parameter, or nothing learns.
    """
    leaves, treedef = jax.tree.flatten_with_path(shapes)
    axes = jax.tree.leaves(logical_axes, is_leaf=lambda item: isinstance(item, tuple))
    paths = [tuple(str(getattr(key, "key", key)) for key in path) for path, _ in leaves]
    adapters = any(path[-1] in ("lora_a", "lora_b") for path in paths)
    unused = set(tune.patterns) if isinstance(tune, Chosen) else set()
    depths = _depths(paths, [leaf for _, leaf in leaves])
    found = []
    for path, (_, leaf), names in zip(paths, leaves, axes, strict=True):
        if path[0] == "heads" or path[-1] in ("lora_a", "lora_b"):
            share: Any = 1.0
        elif adapters or isinstance(tune, HeadsOnly):
            share = 0.0
        elif isinstance(tune, Chosen):
            share = _matches(path, leaf, names, tune.patterns, unused)
        else:
            share = _decayed(path, leaf, tune.layer_decay, *depths)
        found.append(_shaped(share, leaf.ndim))
    if unused:
        names = ", ".join(sorted({".".join(path) for path in paths})[:4])
        raise UserError(
            f"tune.patterns: {', '.join(sorted(unused))}",
            "matches no parameter",
            f"they are named like {names}",
        )
    if not any(np.any(share) for share in found):
        reason = "nothing learns: no task here has a head"
        raise UserError(f"tune: {tune.kind}", reason, "tune all, chosen, or use model.lora")
    return jax.tree.unflatten(treedef, found)


def _matches(
    path: Path, leaf: Any, axes: Axes, patterns: tuple[str, ...], unused: set[str]
) -> float | np.ndarray:
    """1 where a pattern matches the parameter's name; for each layer of a stack."""

    def one(name: str) -> float:
        hits = {pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)}
        unused.difference_update(hits)
        return float(bool(hits))

    if axes[:1] != ("layers",):
        return one(".".join(path))
    at = path.index("layers") + 1
    names = [".".join((*path[:at], str(n), *path[at:])) for n in range(leaf.shape[0])]
    return np.array([one(name) for name in names])


def _depths(paths: list[Path], leaves: list[Any]) -> tuple[int, int]:
    """Layers of the encoder and of the decoder."""
    found = {"encoder": 0, "decoder": 0}
    for path, leaf in zip(paths, leaves, strict=True):
        if path[:2] in (("encoder", "layers"), ("decoder", "layers")):
            found[path[0]] = leaf.shape[0]
    return found["encoder"], found["decoder"]


def _decayed(path: Path, leaf: Any, decay: float, encoder: int, decoder: int) -> float | np.ndarray:
    """decay to the power of how many layers lie above, the decoder above the encoder."""
    if path[:2] == ("decoder", "layers"):
        return decay ** (decoder - np.arange(leaf.shape[0]))
    if path[:2] == ("encoder", "layers"):
        return decay ** (decoder + encoder - np.arange(leaf.shape[0]))
    beneath = path[0] == "embedding" or path[1:2] in (("positions",), ("token_types",))
    return decay ** (decoder + encoder + 1) if beneath or path[1:2] == ("embed_norm",) else 1.0


def _shaped(share: float | np.ndarray, rank: int) -> np.ndarray:
    """[], or [layers, 1, ...] for a parameter of that rank."""
    values = np.asarray(share, np.float32)
    if values.ndim and np.all(values == values[0]):
        values = values[0]
    return values if not values.ndim else values.reshape(-1, *[1] * (rank - 1))
