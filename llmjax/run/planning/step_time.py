"""The time of a training step from the config alone (analytic)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import layer_types
from llmjax.model.params import ParamSpec, param_specs
from llmjax.parallel.mesh import LOGICAL_TO_MESH
from llmjax.parallel.pipeline import NO_PIPELINE, Schedule
from llmjax.parallel.roofline import (
    StepTime,
    Transfer,
    attention_flops,
    attention_seconds,
    grouped_seconds,
    product_seconds,
)
from llmjax.run.planning.parameters import Gathered, StateBytes, gathered_numbers
from llmjax.run.planning.topology import Topology
from llmjax.run.planning.traced import Flops

PASSES = 80
"""Times that a layer's forward and backward pass read or write an array as large as the residual
stream outside of products and attention: norms, residuals, rotations, activations. From the cycles
of Llama 8B on v5e that are no products."""
UPDATE = 3
"""Times that the optimizer reads or writes its state and the parameters."""
EXCHANGES = 5
"""Arrays as large as the experts' inputs that are sent over the devices that split experts: to the
experts and back, and in the backward pass to them again, with the gradients, and back."""
FORWARD, BACKWARD = 2, 5
"""Products of the scores' size of a fused attention kernel."""
QUANTIZING = 5
"""Bytes of memory traffic to quantize a number of an activation or of its gradient: it is read in
bfloat16 for the largest of its channel, read again, and written in 8 bits."""

STAGES, REPLICAS, WEIGHTS, EXPERTS = LOGICAL_TO_MESH["batch"]
(LENGTH,) = LOGICAL_TO_MESH["length"]
(HEADS,) = LOGICAL_TO_MESH["heads"]


@dataclass(frozen=True)
class Work:
    """What one device computes in a step."""

    model: ModelConfig
    compute: ComputeConfig
    state: StateBytes
    row_flops: Flops
    """Of the products of a row; see `traced.product_flops`."""
    sizes: Mapping[str, int]
    """Mesh axis -> devices."""
    rows: float
    """Of a microbatch, that this device shares with those of the same row."""
    length: int
    accumulate: int
    schedule: Schedule = NO_PIPELINE
    """How each microbatch is cut again to pass through the stages of a pipeline."""

    @property
    def tokens(self) -> float:
        """Of a microbatch on this device."""
        return self.rows * self.length / self.sizes[LENGTH]

    @property
    def width(self) -> int:
        """Bytes of a number of the compute dtype."""
        return 2 if self.compute.dtype == "bfloat16" else 4

    @property
    def reduce_width(self) -> int:
        """Bytes of a number that travels in a sum over devices."""
        asked = self.compute.reduce_dtype
        return self.width if asked == "auto" else (2 if asked == "bfloat16" else 4)


def analytic_time(work: Work, topology: Topology) -> StepTime:
    """Seconds of a step on one device of known speed."""
    chip = topology.chip
    assert chip is not None
    sharing = work.sizes[HEADS] * work.sizes[LENGTH]
    products = work.row_flops * (work.accumulate * work.rows / sharing)
    layers = work.model.num_encoder_layers + work.model.num_decoder_layers
    stream = work.tokens * work.model.d_model * work.width * layers
    moved = work.accumulate * PASSES * stream
    moved += UPDATE * (work.state.parameters + work.state.optimizer)
    moved += work.accumulate * QUANTIZING * work.tokens * quantized_numbers(work)
    quantized = work.compute.quantized
    narrow = product_seconds(chip, products.narrow, None if quantized is None else quantized.dtype)
    grouped = grouped_seconds(chip, products.grouped)
    time = StepTime(
        products=product_seconds(chip, products.wide) + narrow + grouped,
        narrow=narrow,
        grouped=grouped,
        attention=attention_seconds(chip, work.accumulate * step_attention_flops(work)),
        memory=moved / chip.bandwidth,
        transfers=tuple(transfers(work, topology)),
    )
    return replace(time, bubble=time.computing * work.schedule.waiting)


def quantized_numbers(work: Work) -> float:
    """Numbers that a device quantizes for each token of a step, in all layers, without weights.

    The input of projections is quantized in both passes, once for all those of a module that read
    it; the gradient of a result for each of the products that it is in.
    """
    quantized = work.compute.quantized
    if quantized is None:
        return 0.0
    inputs, gradients = dict[tuple[object, ...], float](), 0.0
    for spec in _quantized(work):
        assert spec.inner is not None
        sizes = [
            size / (work.sizes[HEADS] if HEADS in LOGICAL_TO_MESH[axis or "gathered"] else 1)
            for size, axis in zip(spec.shape.shape, spec.axes, strict=True)
        ]
        inner = math.prod(sizes[i] for i in spec.inner)
        gradients += math.prod(sizes) / inner
        inputs[*spec.path[:-2], inner] = sizes[0] * inner
    passes = 1 if work.compute.remat == "none" and not quantized.weights else 2
    return passes * sum(inputs.values()) + (quantized.inputs + quantized.weights) * gradients


def _quantized(work: Work) -> list[ParamSpec]:
    """The kernels whose products are quantized."""
    return [spec for spec in param_specs(work.model, work.compute).specs if spec.quantized]


def step_attention_flops(work: Work) -> float:
    """FLOPs of a microbatch's attention on one device, of rows that are one document each."""
    model, total = work.model, 0.0
    for count, causal in ((model.num_encoder_layers, False), (model.num_decoder_layers, True)):
        for layer in layer_types(model, count):
            keys = work.length / 2 if causal else float(work.length)
            if layer.window is not None:
                keys = min(keys, layer.window)
            total += keys
    if model.is_encoder_decoder:
        total += model.num_decoder_layers * work.length
    heads = model.num_heads / work.sizes[HEADS]
    width = (model.head_width + model.value_width) / 2
    return attention_flops(FORWARD + BACKWARD, work.tokens, total, heads, width)


def transfers(work: Work, topology: Topology) -> Iterator[Transfer]:
    """The collectives of a step, by kind and mesh axis.

    Weights are gathered for the forward and for the backward pass, of each microbatch, those of
    quantized products in 8 bits; gradients are summed as often, since parts of a batch are added
    where they are stored. Over fsdp go the weights of experts, and all others as parts, which the
    devices that split experts gather among them before.
    """
    links, sizes = topology.bandwidths(work.sizes), work.sizes
    schedule, on_tpu = work.schedule, topology.platform == "tpu"

    def ring(axis: str, nbytes: float, kind: str, *, hidden: bool) -> Iterator[Transfer]:
        size = sizes[axis]
        if size > 1 and nbytes:
            sent = nbytes * (size - 1) / size * (2 if kind == "all-reduce" else 1)
            yield Transfer(kind, axis, sent, links[axis], hidden)

    dense, experts = _gathered_bytes(work)
    yield from ring(WEIGHTS, dense + experts, "all-gather", hidden=True)
    yield from ring(EXPERTS, dense / sizes[WEIGHTS], "all-gather", hidden=True)
    torus = on_tpu and len(topology.shape) == 2  # there compilers make all-reduces of scatters
    kind = "all-reduce" if torus else "reduce-scatter"
    share = work.state.trained / work.state.parameters * work.reduce_width
    dense, experts = (count * share for count in _passing(work, work.state.gathered))
    yield from ring(WEIGHTS, dense + experts, kind, hidden=not on_tpu)
    yield from ring(EXPERTS, dense / sizes[WEIGHTS], kind, hidden=not on_tpu)
    summed = dense / (sizes[WEIGHTS] * sizes[EXPERTS]) + experts / sizes[WEIGHTS]
    yield from ring(REPLICAS, summed, "all-reduce", hidden=not on_tpu)
    if sizes[EXPERTS] > 1:
        sent = _exchanged_bytes(work) * (sizes[EXPERTS] - 1) / sizes[EXPERTS]
        bandwidth = topology.exchange_bandwidth(sizes[EXPERTS], links[EXPERTS])
        yield Transfer("all-to-all", EXPERTS, sent, bandwidth, hidden=False)
    count_layers = work.model.num_encoder_layers + work.model.num_decoder_layers
    layers = count_layers * work.accumulate * (1 + schedule.waiting)
    rows = work.rows * work.length / sizes[LENGTH] * work.model.d_model * layers
    again = _gathered_again(work.compute)
    yield from ring(HEADS, rows * work.width * (4 + again), "all-gather", hidden=False)
    yield from ring(HEADS, rows * work.reduce_width * 4, "reduce-scatter", hidden=False)
    width = work.model.head_width + work.model.value_width
    keys = work.rows * work.length * work.model.kv_heads / sizes[HEADS] * width * layers
    yield from ring(LENGTH, keys * work.width * 2, "all-gather", hidden=False)
    yield from ring(LENGTH, keys * 4, "reduce-scatter", hidden=False)
    if sizes[STAGES] > 1:
        sent = _stage_bytes(work)
        yield Transfer("collective-permute", STAGES, sent, links[STAGES], hidden=False)


def _passing(work: Work, numbers: Gathered) -> tuple[float, float]:
    """Numbers of parameters that pass over the network when all weights are gathered once in each
    pass of a step: those of experts, and the others. The layers of a stage are gathered in each
    iteration of a pipeline."""
    schedule, times = work.schedule, work.accumulate
    iterations = times * schedule.iterations / schedule.rounds
    return numbers.outside * times + numbers.layers * iterations, numbers.experts * iterations


def _gathered_bytes(work: Work) -> tuple[float, float]:
    """Bytes of weights that are gathered in a step, forward and backward: those of experts, and the
    others."""
    quantized = work.compute.quantized
    passes = 0 if quantized is None else 1 + quantized.inputs
    narrow = _passing(work, gathered_numbers(_quantized(work), work.sizes))
    every = _passing(work, work.state.gathered)
    dense, experts = (
        2 * count * work.width - passes * few * (work.width - 1)
        for count, few in zip(every, narrow, strict=True)
    )
    return dense, experts


def _exchanged_bytes(work: Work) -> float:
    """Bytes that a device sends to the devices of experts, itself included: whole buffers."""
    model, moe = work.model, work.model.moe
    if moe is None:
        return 0.0
    count = sum(each.is_sparse for each in layer_types(model, model.num_decoder_layers))
    layers = count * work.accumulate * (1 + work.schedule.waiting) / work.schedule.stages
    rows = work.schedule.stages * work.tokens * moe.experts_per_token * work.compute.expert_buffer
    return EXCHANGES * layers * rows * model.d_model * work.width


def _stage_bytes(work: Work) -> float:
    """Bytes that a device sends to other stages: in each iteration, forward and backward, a
    microbatch to the next stage and one of the belt; and with several rounds, groups of layers to
    the stages that compute them, and back their gradients."""
    schedule, sizes = work.schedule, work.sizes
    rows = work.rows * schedule.stages / schedule.microbatches * work.length
    stream = rows / (sizes[LENGTH] * sizes[HEADS]) * work.model.d_model * work.width
    moved = 4 * schedule.iterations * stream
    if schedule.rounds > 1:
        moved += (work.state.parameters + work.state.trained) * (1 - 1 / schedule.stages)
    return work.accumulate * moved


def _gathered_again(compute: ComputeConfig) -> int:
    """How often a layer's backward pass gathers the residual stream to recompute projections of it:
    for attention and for the MLP, unless their results are kept."""
    kept = compute.kept_names
    if kept is None:
        return 0
    return sum(not names <= set(kept) for names in ({"query", "key", "value"}, {"up"}))
