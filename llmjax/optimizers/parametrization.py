"""Parametrizations under which hyperparameters of a small model hold for larger ones.

Maximal update parametrization (muP: Yang and Hu 2021, arXiv:2011.14522; Yang et al. 2022,
arXiv:2203.03466) fixes how initial weights and learning rates depend on the width, and CompleteP
(Dey et al. 2025, arXiv:2505.01618) on the depth too, so that activations and their change by an
update keep their size. Both are usually stated with multipliers inside the model. Here they are
folded into the weights that they multiply, which is the same training (arXiv:2011.14522, section
3, for optimizers that ignore the size of gradients): the model stays what its config says, and its
exports need nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from llmjax.model.config import ModelConfig
from llmjax.model.trees import flatten, unflatten
from llmjax.optimizers.config import OptimizerConfig, Tree
from llmjax.optimizers.muon import MuonConfig
from llmjax.optimizers.param_kinds import ParamKind, param_kind
from llmjax.optimizers.standard import AdamWConfig, LionConfig
from llmjax.parallel.mesh import Axes

INVARIANT = (AdamWConfig, LionConfig, MuonConfig)
"""Optimizers whose updates do not depend on the size of gradients."""


@dataclass(frozen=True)
class StandardParametrization:
    """Initial weights and learning rates as given, whatever the model's size."""

    kind: Literal["standard"] = "standard"


@dataclass(frozen=True)
class MuP:
    """muP (arXiv:2203.03466): the best learning rate of one width is that of other widths. MLP and
    attention must grow in proportion to d_model."""

    base_width: int = 256
    """d_model of the model whose weights and learning rates stay as given."""
    kind: Literal["mup"] = "mup"


@dataclass(frozen=True)
class CompleteP:
    """CompleteP (arXiv:2505.01618): muP, and the same over depths: what each layer adds to the
    residual stream is divided by the depth."""

    base_width: int = 256
    """d_model of the model whose weights and learning rates stay as given."""
    base_depth: int = 4
    """And its number of layers."""
    kind: Literal["completep"] = "completep"


ParametrizationConfig: TypeAlias = StandardParametrization | MuP | CompleteP


class Scale(NamedTuple):
    """Factors of a parameter, relative to the standard parametrization."""

    init: float = 1.0
    """Of its initial value."""
    rate: float = 1.0
    """Of its learning rate, but not of its decay: a step still subtracts learning rate x weight
    decay x weight."""
    epsilon: float = 1.0
    """Of the optimizer's epsilon."""


def parametrization_problems(
    config: ParametrizationConfig, model: ModelConfig, optimizer: OptimizerConfig
) -> Iterator[str]:
    """Yields why a model cannot be trained by this optimizer in this parametrization."""
    if isinstance(config, StandardParametrization):
        return
    name = f"parametrization: {config.kind}"
    for field in ("base_width", "base_depth"):
        if (value := getattr(config, field, 1)) < 1:
            yield f"parametrization.{field}: {value} must be at least 1"
    if not isinstance(optimizer, INVARIANT):
        kind = getattr(optimizer, "kind", type(optimizer).__name__)
        reason = "adamw, lion and muon, whose updates ignore the size of gradients"
        yield f"{name} is for {reason}; not {kind}"
    if model.norm_placement != "pre":
        yield f"{name} needs model.norm_placement=pre, not {model.norm_placement}"
    for field in ("mla", "linear", "lora"):
        if getattr(model, field) is not None:
            yield f"{name} is not worked out for model.{field}"
    if model.tie_embeddings and model.norm_unit_offset:
        yield f"{name} with model.norm_unit_offset needs model.tie_embeddings=false"
    if model.lm_head_transform or model.pooler or model.multi_token:
        yield f"{name} is not worked out for lm_head_transform, pooler or multi_token"


def parameter_scales(
    config: ParametrizationConfig, model: ModelConfig, optimizer: OptimizerConfig, axes: Tree
) -> dict[str, Scale] | None:
    """The factors of each parameter by its dotted path; None: all are 1.

    Args:
      config: the parametrization.
      model: a resolved model config without problems.
      optimizer: Muon's updates of matrices need another factor than AdamW's.
      axes: tree of the parameters' logical axes.
    """
    if isinstance(config, StandardParametrization):
        return None
    width = model.d_model / config.base_width
    layers = max(model.num_encoder_layers, model.num_decoder_layers)
    depth = layers / config.base_depth if isinstance(config, CompleteP) else 1.0
    paths = dict(flatten(axes))
    into = {path.rpartition(".")[0] for path, each in paths.items() if _into_residual(each)}
    by_muon = isinstance(optimizer, MuonConfig)
    return {
        path: _scale(path, each, width, depth, path.rpartition(".")[0] in into, by_muon, model)
        for path, each in paths.items()
    }


def _into_residual(axes: Axes) -> bool:
    """Whether a parameter is a projection into the residual stream, not a table."""
    is_matrix = param_kind(axes) == ParamKind.MATRIX
    return is_matrix and axes[-1] in ("embed", "expert_embed")


def _scale(
    path: str,
    axes: Axes,
    width: float,
    depth: float,
    adds_to_residual: bool,
    by_muon: bool,
    model: ModelConfig,
) -> Scale:
    """arXiv:2505.01618, table 1 with alpha = 1; `width` and `depth` are relative to the base."""
    kind = param_kind(axes)
    top = path.split(".")[0]
    is_output = top == "unembedding" or (
        model.tie_embeddings and path.rpartition(".")[0] in ("decoder.norm", "encoder.norm")
    )
    if is_output:  # the multiplier 1 / width of the logits
        return Scale(1 / width, 1 / width)
    if kind in (ParamKind.MATRIX, ParamKind.ROUTER) and not path.startswith("heads."):
        # An update's largest singular value, which is to stay the same, grows as the width with
        # AdamW and as its root with Muon, whose updates are orthogonal and have AdamW's size.
        rate = width**-0.5 if by_muon and kind == ParamKind.MATRIX else 1 / width
        if not adds_to_residual:
            return Scale(width**-0.5, rate, 1 / (width * depth))
        # The standard initialization divides by the root of the layers, which is the depth's here.
        return Scale(width**-0.5 * depth**-0.5, rate / depth, 1 / width)
    if adds_to_residual:  # biases
        return Scale(1 / depth, 1 / depth, 1 / width)
    return Scale(1.0, 1.0, 1 / (width * depth) if axes[0] == "layers" else 1 / width)


def scaled(tree: Tree, factors: Mapping[str, float]) -> Tree:
    """The tree with leaves multiplied by the factors of their paths, if not 1."""
    return unflatten(
        {
            path: leaf if factors.get(path, 1.0) == 1.0 else leaf * factors[path]
            for path, leaf in flatten(tree)
        }
    )
