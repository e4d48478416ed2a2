"""How a model is initialised, trained and run, as data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmjax.model.config import choice_problems

AttentionBackend = Literal["auto", "reference", "blocked", "cudnn", "splash"]
Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "attention", "dots", "full"]


@dataclass(frozen=True)
class ComputeConfig:
    """How a model is initialised, trained and run: everything but what a checkpoint is.

    Nothing here decides what is loaded, so all of it may change when a run resumes.
    """

    dtype: Dtype = "float32"
    """Operands of products and activations; sums, norms, softmax and loss stay float32."""
    attention: AttentionBackend = "auto"
    """auto: cuDNN flash on NVIDIA, splash on TPU, else blocked (unrolled on CPUs) on long rows and
    the reference on short ones."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing; attention scores; all but the outputs of weight
    products; all. A fused attention's output is kept in every case."""
    dropout: float = 0.0
    """Share of activations dropped on embeddings, attention and MLP outputs in training."""
    init_std: float = 0.02
    """Standard deviation of initial weights; projections into the residual stream are divided by
    sqrt(2 x layers) (GPT-2)."""


def compute_problems(config: ComputeConfig) -> Iterator[str]:
    """Yields what is wrong with a config, each in a few words."""
    yield from choice_problems(config)
    if not 0 <= config.dropout < 1:
        yield f"dropout must be at least 0 and below 1, not {config.dropout}"
    if not 0 < config.init_std < float("inf"):
        yield f"init_std must be positive and finite, not {config.init_std}"
