"""Config of how a model is initialized, trained and run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llmjax.model.config import choice_problems
from llmjax.parallel.compilation import option_problems

AttentionBackend = Literal["auto", "reference", "blocked", "cudnn", "splash"]
Dtype = Literal["float32", "bfloat16"]
ReduceDtype = Literal["auto", "float32", "bfloat16"]
Remat = Literal["none", "attention", "dots", "full"]


class Precision(NamedTuple):
    """Dtypes of a product with stored weights."""

    dtype: Dtype
    """Of the operands."""
    reduce: ReduceDtype = "auto"
    """See `ComputeConfig.reduce_dtype`."""


@dataclass(frozen=True)
class ComputeConfig:
    """How a model is initialized, trained and run.

    Nothing here changes what a checkpoint is, so all of it may change when a run resumes.
    """

    dtype: Dtype = "float32"
    """Of activations and operands of products; sums, norms, softmax and loss are float32."""
    reduce_dtype: ReduceDtype = "auto"
    """In which gradients of weights, and the results of tensor-parallel products, are summed over
    devices; each device's own sums are float32. auto: bfloat16 where dtype is and the devices are
    accelerators, which halves the bytes that they exchange; else float32."""
    attention: AttentionBackend = "auto"
    """auto: cuDNN flash on NVIDIA GPUs, splash on TPUs, else blocked (unrolled on CPUs) for long
    rows and the reference for short ones."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing; attention scores; all but the results of weight
    products; everything. The output of fused attention is always kept."""
    dropout: float = 0.0
    """Fraction of embeddings, attention and MLP outputs that is dropped in training."""
    xla_options: tuple[str, ...] = ()
    """Options of the compiler of the train step, each NAME=VALUE, added to those that the platform
    gets (llmjax/parallel/compilation.py), or instead of them."""
    init_std: float = 0.02
    """Standard deviation of initial weights, divided by sqrt(2 x layers) for projections into the
    residual stream (GPT-2)."""

    @property
    def precision(self) -> Precision:
        """Dtypes of products with stored weights."""
        return Precision(self.dtype, self.reduce_dtype)


def compute_problems(config: ComputeConfig) -> Iterator[str]:
    """Yields what is wrong with a config, a line each."""
    yield from choice_problems(config)
    yield from (f"xla_options: {problem}" for problem in option_problems(config.xla_options))
    if not 0 <= config.dropout < 1:
        yield f"dropout must be at least 0 and below 1, not {config.dropout}"
    if not 0 < config.init_std < float("inf"):
        yield f"init_std must be positive and finite, not {config.init_std}"
