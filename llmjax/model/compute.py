"""Config of how a model is initialized, trained and run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from llmjax.errors import UserError
from llmjax.model.config import choice_problems
from llmjax.parallel.chips import Chip, NarrowDtype
from llmjax.parallel.compilation import option_problems

AttentionBackend = Literal["auto", "reference", "blocked", "cudnn", "triton", "splash"]
ContextMethod = Literal["gather", "ring", "all_to_all"]
ContextParallel = Literal["auto", "gather", "ring", "all_to_all"]
Dtype = Literal["float32", "bfloat16"]
ReduceDtype = Literal["auto", "float32", "bfloat16"]
Remat = Literal["none", "attention", "dots", "full"]
"""Named policies of rematerialization."""

INPUT = "input"
"""Checkpoint name of a layer's input, which every policy keeps."""

ATTENTION = "attention"
"""Checkpoint name of the residuals of fused attention: its output and log-sum-exp."""

PROJECTIONS = (
    *("query", "key", "value", "output_gate", "out", "gate", "up", "down", "beta", "decay"),
    *("query_down", "kv_down", "key_rope"),
)
"""Checkpoint names of the results of a layer's projections."""

KEPT_NAMES: dict[str, tuple[str, ...]] = {
    "dots": (ATTENTION, *PROJECTIONS),
    "full": (ATTENTION,),
}
"""What the policies of a whole layer keep, besides its input."""


class Precision(NamedTuple):
    """Dtypes of a product with stored weights."""

    dtype: Dtype
    """Of the operands."""
    reduce: ReduceDtype = "auto"
    """See `ComputeConfig.reduce_dtype`."""


class Quantization(NamedTuple):
    """Which products of a projection have operands of 8 bits, besides the forward one."""

    dtype: NarrowDtype
    inputs: bool = True
    """Whether the gradient of the projection's input is one."""
    weights: bool = True
    """Whether that of its kernel is."""


@dataclass(frozen=True)
class ComputeConfig:
    """How a model is initialized, trained and run.

    Nothing here changes what a checkpoint is, so all of it may change when a run resumes.
    """

    dtype: Dtype = "float32"
    """Dtype of activations and operands of products; sums, norms, softmax and loss are float32."""
    reduce_dtype: ReduceDtype = "auto"
    """Dtype in which gradients of weights, and the results of tensor-parallel products, are summed
    over devices; each device's own sums are float32. auto: bfloat16 where dtype is bfloat16 and the
    devices are accelerators, which halves the bytes that they exchange; else float32."""
    quantization: Literal["none", "int8", "fp8"] = "none"
    """Quantized training: operands of the layers' projections are quantized for each product, on
    the fly, to int8 (TPU v5e, v5p, v6e; A100, H100) or fp8 (e4m3; H100, B200, TPU v7x). Weights
    are stored as they are; embedding, LM head, norms, attention scores and adapters stay in
    dtype."""
    quantized_params: tuple[str, ...] = ()
    """Which projections, by the names of their kernels: globs such as decoder.* or *.mlp.down.*;
    those of a stack alike. Empty: all projections of the layers."""
    quantized_gradients: Literal["all", "inputs", "weights", "none"] = "all"
    """Which products of the backward pass are quantized too: those for gradients of inputs, of
    weights, both or neither; the others are in dtype, of operands that were not quantized."""
    attention: AttentionBackend = "auto"
    """auto: cuDNN flash on NVIDIA GPUs, and triton (our kernels) there for packed rows, soft-caps
    and windows both ways; splash on TPUs; else blocked (unrolled on CPUs) for long rows and the
    reference for short ones."""
    context_parallel: ContextParallel = "auto"
    """How attention sees the keys of other devices where the mesh splits rows along their length
    (mesh.sequence). gather: all keys and values are gathered; ring: they pass from device to
    device; all_to_all: devices trade their parts of the length for parts of the heads. auto:
    all_to_all where the heads divide and it sends no more than a ring, else ring."""
    pipeline_microbatches: int | None = None
    """Microbatches of a batch (with optimizer.accumulate, of each of its parts) where the mesh
    splits layers (mesh.stage), a multiple of the stages; none: each is one row of each device that
    shares the batch. A batch of fewer rows, as in evaluation, has fewer."""
    pipeline_rounds: int = 1
    """How often a microbatch passes through all stages, of which each holds as many groups of
    layers. The stages wait for (stages - 1) / (microbatches x rounds + stages - 1) of the time."""
    expert_buffer: float = 1.25
    """Tokens that a device sends to each device of mesh.expert in one exchange, relative to an
    equal share. Where one needs more, all exchange again: no token is dropped. Larger buffers take
    memory and are sent whole."""
    remat: str = "none"
    """What the backward pass recomputes: nothing (none); attention scores (attention); all but the
    results of weight products (dots); everything (full). These keep the output of fused attention.
    Or the names of what is kept, separated by commas, such as query,key,attention. Names are query,
    key, value, attention, output_gate, out, gate, up, down, query_down, kv_down, key_rope (of
    latent attention), beta, decay (of linear attention), and input (of a layer, which is always
    kept)."""
    offload: tuple[str, ...] = ()
    """Names, as in remat except attention, of what waits for the backward pass in the host's memory
    instead of the device's; for GPUs and TPUs, with a remat other than none and attention."""
    dropout: float = 0.0
    """Fraction of embeddings, attention and MLP outputs that is dropped in training."""
    xla_options: tuple[str, ...] = ()
    """Compiler options of the train step, each NAME=VALUE, which add to the platform's defaults
    (llmjax/parallel/compilation.py) or replace them."""
    init_std: float = 0.02
    """Standard deviation of initial weights, divided by sqrt(2 x layers) for projections into the
    residual stream (GPT-2)."""

    @property
    def precision(self) -> Precision:
        """Dtypes of products with stored weights."""
        return Precision(self.dtype, self.reduce_dtype)

    @property
    def quantized(self) -> Quantization | None:
        """How the chosen projections are quantized; None: not at all."""
        if self.quantization == "none":
            return None
        narrow = self.quantized_gradients
        return Quantization(
            self.quantization, narrow in ("all", "inputs"), narrow in ("all", "weights")
        )

    @property
    def kept_names(self) -> tuple[str, ...] | None:
        """Checkpoint names of what is kept of a layer besides its input, where the backward pass
        recomputes layers; None where it does not."""
        if self.remat in ("none", "attention"):
            return None
        return KEPT_NAMES.get(self.remat) or tuple(self.remat.split(","))

    @property
    def recomputes_layers(self) -> bool:
        """Whether the backward pass recomputes layers from their inputs and what is kept."""
        return self.kept_names is not None

    @property
    def saves_memory(self) -> bool:
        """Whether most of a layer is recomputed to save memory."""
        return self.remat not in ("none", "attention", "dots")


def check_quantization(config: ComputeConfig, chip: Chip | None) -> None:
    """Checks that a chip has the products that a config's quantization is for.

    Args:
      config: of a run.
      chip: None: not known, or a CPU, which computes all of them, but not faster.

    Raises:
      UserError: it has none, or none that are faster.
    """
    if config.quantized is None or chip is None:
        return
    asked = config.quantized.dtype
    if chip.narrow_flops(asked) is None:
        faster = [name for name in ("int8", "fp8") if chip.narrow_flops(name) is not None]
        reason = f"{chip.name} has no {asked} products that are faster than bfloat16"
        raise UserError(
            f"compute.quantization {asked}", reason, f"choose {' or '.join([*faster, 'none'])}"
        )


def compute_problems(config: ComputeConfig) -> Iterator[str]:
    """Yields what is wrong with a config, a line each."""
    yield from choice_problems(config)
    yield from _remat_problems(config)
    yield from (f"xla_options: {problem}" for problem in option_problems(config.xla_options))
    if config.pipeline_microbatches is not None and config.pipeline_microbatches < 1:
        yield f"pipeline_microbatches must be positive or none, not {config.pipeline_microbatches}"
    if config.pipeline_rounds < 1:
        yield f"pipeline_rounds must be positive, not {config.pipeline_rounds}"
    if config.expert_buffer <= 0:
        yield f"expert_buffer must be positive, not {config.expert_buffer}"
    if config.quantized_params and config.quantization == "none":
        yield "quantized_params has no meaning with quantization none"
    if not 0 <= config.dropout < 1:
        yield f"dropout must be at least 0 and below 1, not {config.dropout}"
    if not 0 < config.init_std < float("inf"):
        yield f"init_std must be positive and finite, not {config.init_std}"


def _remat_problems(config: ComputeConfig) -> Iterator[str]:
    known = (INPUT, ATTENTION, *PROJECTIONS)
    policies, names = ", ".join(get_args(Remat)), ", ".join(known)
    if config.remat not in get_args(Remat):
        unknown = [name for name in config.remat.split(",") if name not in known]
        if unknown:
            yield f"remat must be one of {policies}, or names of {names}, not {config.remat!r}"
    # Residuals of attention belong to a `shard_map`, out of which JAX offloads nothing.
    movable = [name for name in known if name != ATTENTION]
    for name in config.offload:
        if name not in movable:
            yield f"offload: {name!r} is not one of {', '.join(movable)}"
    if config.offload and not config.recomputes_layers:
        yield f"offload: remat {config.remat} keeps all of a layer; choose full, dots or names"
