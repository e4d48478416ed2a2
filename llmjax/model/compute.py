"""Config of how a model is initialized, trained and run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmjax.model.config import choice_problems

AttentionBackend = Literal["auto", "reference", "blocked", "cudnn", "triton", "splash"]
Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "attention", "dots", "full"]


@dataclass(frozen=True)
class ComputeConfig:
    """How a model is initialized, trained and run.

    Nothing here changes what a checkpoint is, so all of it may change when a run resumes.
    """

    dtype: Dtype = "float32"
    """Of activations and operands of products; sums, norms, softmax and loss are float32."""
    attention: AttentionBackend = "auto"
    """auto: cuDNN flash on NVIDIA GPUs, and triton (our kernels) there for packed rows, soft-caps
    and windows both ways; splash on TPUs; else blocked (unrolled on CPUs) for long rows and the
    reference for short ones."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing; attention scores; all but the results of weight
    products; everything. The output of fused attention is always kept."""
    dropout: float = 0.0
    """Fraction of embeddings, attention and MLP outputs that is dropped in training."""
    init_std: float = 0.02
    """Standard deviation of initial weights, divided by sqrt(2 x layers) for projections into the
    residual stream (GPT-2)."""


def compute_problems(config: ComputeConfig) -> Iterator[str]:
    """Yields what is wrong with a config, a line each."""
    yield from choice_problems(config)
    if not 0 <= config.dropout < 1:
        yield f"dropout must be at least 0 and below 1, not {config.dropout}"
    if not 0 < config.init_std < float("inf"):
        yield f"init_std must be positive and finite, not {config.init_std}"
