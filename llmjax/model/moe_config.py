"""Config of layers whose MLP is a mixture of experts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

RouterScores = Literal["softmax", "sigmoid", "sparsemixer"]
GroupScore = Literal["max", "top2"]


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts (arXiv:1701.06538) in place of a layer's MLP: a router chooses a few of
    many MLPs, the experts, for each token, and their outputs are summed with its weights.

    Experts have the model's activation and gating, but their own width and biases.
    """

    num_experts: int = 8
    """Experts of a layer."""
    experts_per_token: int = 2
    """Experts that a token is sent to."""
    expert_width: int | None = None
    """Inner width of an expert; None: that of the model's MLP."""
    dense_layers: tuple[int, ...] = ()
    """Layers that keep an ordinary MLP, counted from 0."""
    scores: RouterScores = "softmax"
    """Of the router's logits: softmax over all experts; sigmoid of each; or sparsemixer
    (arXiv:2409.12136), for each chosen one a softmax over those near it and not chosen before."""
    normalize: bool = True
    """Whether a token's weights are divided by their sum."""
    weight_scale: float = 1.0
    """Multiplies the weights."""
    weight_inputs: bool = False
    """Whether weights multiply the experts' inputs instead of their outputs (Llama 4)."""
    router_bias: bool = False
    """Whether the router's logits have a bias (gpt-oss)."""
    selection_bias: bool = False
    """Whether a bias is added to the scores for choosing experts, but not in the weights. It has no
    gradient: after each step, that of overloaded experts falls by `bias_update_rate` and that of
    the others rises (arXiv:2408.15664)."""
    bias_update_rate: float = 0.001
    """How much a step changes the selection bias; 0: never."""
    groups: int = 1
    """Equal groups of experts in order, of which each token can use `groups_per_token`."""
    groups_per_token: int = 1
    """Groups with the best scores, from which a token's experts are chosen."""
    group_score: GroupScore = "top2"
    """A group's score: that of its best expert (max), or the sum of its best two (top2)."""
    expert_bias: bool = False
    """Biases of the experts."""
    shared_width: int = 0
    """Inner width of an MLP that all tokens use besides their experts; 0: none."""
    shared_gate: bool = False
    """Whether that is multiplied by the sigmoid of a projection of the token (Qwen2-MoE)."""
    balance_loss: float = 0.0
    """Weight of the auxiliary loss N sum_i f_i P_i, where f_i is the number of tokens that chose
    expert i and P_i its mean score, both per token of the batch, or of a microbatch with
    `optimizer.accumulate` (arXiv:2101.03961, equation 4)."""
    z_loss: float = 0.0
    """Weight of the mean squared log-sum-exp of the router's logits (arXiv:2202.08906)."""
    capacity_factor: float | None = None
    """Most tokens of a row that an expert takes, relative to an equal share; it drops later ones.
    Steps of decoding drop none. None: no limit."""
    jitter: float = 0.01
    """sparsemixer: experts within twice this of the chosen one's logit, relative to the larger of
    the two magnitudes, share its softmax."""


def moe_problems(moe: MoEConfig, layers: int) -> Iterator[str]:
    """Yields what is wrong with a config for stacks of up to `layers` layers, a line each."""
    for name in ("num_experts", "experts_per_token", "groups", "groups_per_token"):
        if getattr(moe, name) < 1:
            yield f"moe.{name} must be positive, not {getattr(moe, name)}"
            return
    if moe.expert_width is not None and moe.expert_width < 1:
        yield f"moe.expert_width must be positive or None, not {moe.expert_width}"
    if moe.shared_width < 0:
        yield f"moe.shared_width must not be negative, but is {moe.shared_width}"
    if moe.shared_gate and not moe.shared_width:
        yield "moe.shared_gate has no meaning without shared_width"
    if any(not 0 <= layer < layers for layer in moe.dense_layers):
        yield f"moe.dense_layers {list(moe.dense_layers)} are not all among the {layers} layers"
    yield from _choice_problems(moe)
    yield from _number_problems(moe)


def _choice_problems(moe: MoEConfig) -> Iterator[str]:
    if moe.num_experts % moe.groups:
        yield f"moe.num_experts {moe.num_experts} does not divide into {moe.groups} groups"
        return
    if moe.groups_per_token > moe.groups:
        yield f"moe.groups_per_token {moe.groups_per_token} exceeds groups {moe.groups}"
        return
    size = moe.num_experts // moe.groups
    if moe.experts_per_token > size * moe.groups_per_token:
        yield (
            f"moe.experts_per_token {moe.experts_per_token} exceeds the "
            f"{size * moe.groups_per_token} experts that a token can choose from"
        )
    if moe.groups > 1 and moe.group_score == "top2" and size < 2:
        yield "moe.group_score top2 needs groups of at least 2 experts; choose max"
    if moe.scores == "sparsemixer" and (moe.groups > 1 or moe.selection_bias or moe.normalize):
        yield "moe.scores sparsemixer has no groups and no selection_bias, and normalize false"


def _number_problems(moe: MoEConfig) -> Iterator[str]:
    for name in ("balance_loss", "z_loss", "bias_update_rate", "jitter"):
        if not 0 <= getattr(moe, name) < math.inf:
            yield f"moe.{name} must be from 0 up and finite, not {getattr(moe, name)}"
    if not 0 < moe.weight_scale < math.inf:
        yield f"moe.weight_scale must be positive and finite, not {moe.weight_scale}"
    if moe.capacity_factor is not None and not 0 < moe.capacity_factor < math.inf:
        yield f"moe.capacity_factor must be positive or None, not {moe.capacity_factor}"
