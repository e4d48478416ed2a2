"""A plan: the memory, time and cost of a config on given devices."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import jax

from llmjax.data.stages import Stage
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.compute import check_quantization
from llmjax.model.config import ModelConfig
from llmjax.model.flops import flops_per_token
from llmjax.model.params import check_mesh
from llmjax.model.stages import check_microbatches, schedule_of
from llmjax.optimizers.trainable import TrainHeads
from llmjax.parallel.mesh import LOGICAL_TO_MESH, OPTIONAL_AXES, mesh_sizes, present
from llmjax.parallel.roofline import StepTime
from llmjax.run.config.schema import Config
from llmjax.run.planning.compiled import Compiled
from llmjax.run.planning.memory import RESERVE, Memory, Shares, analytic_memory, with_copies
from llmjax.run.planning.parameters import Kind, parameters_by_kind, state_bytes
from llmjax.run.planning.step_time import Work, analytic_time
from llmjax.run.planning.topology import Topology
from llmjax.run.planning.traced import Flops, Row, abstract_mesh, kept_bytes, product_flops

ROWS = LOGICAL_TO_MESH["batch"]
WEIGHTS = LOGICAL_TO_MESH["embed"]
(LENGTH,) = LOGICAL_TO_MESH["length"]
(HEADS,) = LOGICAL_TO_MESH["heads"]
(STAGES,) = LOGICAL_TO_MESH["layers"]
(EXPERTS,) = LOGICAL_TO_MESH["experts"]


@dataclass(frozen=True)
class Plan:
    """What a config needs on a topology, and how fast it trains there."""

    config: Config
    model: ModelConfig
    """Resolved."""
    topology: Topology
    sizes: dict[str, int]
    """Mesh axis -> devices."""
    stage: Stage
    """The stage of the run that is planned: the one with most tokens in a batch."""
    parameters: dict[Kind, int]
    memory: Memory
    time: StepTime | None
    """None: the speed of the devices is not known."""
    checkpoint: float
    """Bytes of a checkpoint."""
    work: Work
    """Of one device."""
    compiled: Compiled | None = None
    """What the compiler says; None: the plan is analytic alone."""

    @property
    def depth(self) -> str:
        """Where the numbers are from."""
        return "analytic" if self.compiled is None else "compiled"

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.stage.batch_size * self.stage.length

    @property
    def rows(self) -> float:
        """Of a microbatch, on one device."""
        return self.work.rows

    @property
    def needed(self) -> float:
        """Bytes of a device's memory."""
        return self.memory.peak if self.compiled is None else self.compiled.peak

    @property
    def fits(self) -> bool | None:
        """Whether that is there; None: unknown."""
        available = self.topology.memory
        if available is None:
            return None
        return self.needed * (1 + RESERVE * (self.compiled is None)) <= available

    @property
    def step_time(self) -> StepTime | None:
        """Of the deeper source that knows it."""
        return self.compiled.time if self.compiled and self.compiled.time else self.time

    @property
    def tokens_per_second(self) -> float | None:
        """Of all devices."""
        return None if self.step_time is None else self.tokens / self.step_time.total

    @property
    def tokens_per_chip(self) -> float | None:
        """Tokens per second of one chip."""
        total = self.tokens_per_second
        return None if total is None else total / self.topology.chips

    @cached_property
    def flops_per_token(self) -> float:
        """Model FLOPs, as `llmjax train` counts them."""
        backward = not isinstance(self.config.trainable, TrainHeads)
        flops = flops_per_token(self.model, self.stage.length, backward=backward)
        return flops / (2 if self.model.is_encoder_decoder else 1)

    @property
    def mfu(self) -> float | None:
        """Model FLOP/s as a fraction of the devices' bfloat16 peak."""
        speed, chip = self.tokens_per_second, self.topology.chip
        if speed is None or chip is None:
            return None
        return speed * self.flops_per_token / (chip.flops * self.topology.devices)

    def seconds(self, tokens: float) -> float | None:
        """Of training on so many tokens, without evaluation and checkpoints."""
        speed = self.tokens_per_second
        return None if speed is None else tokens / speed


def vocabulary_of(config: Config) -> int:
    """The size of a config's vocabulary.

    Raises:
      UserError: the tokenizer cannot be read, or its size is not known before it is trained.
    """
    if config.model.vocab_size:
        return config.model.vocab_size
    size = getattr(config.tokenizer, "vocab_size", None)
    if size is None:
        tokenizer = config.tokenizer.open()
        size = None if tokenizer is None else tokenizer.vocab_size
    if size is None:
        fix = "give --model.vocab-size"
        raise UserError("tokenizer", "its size is not known before it is trained", fix)
    return int(size)


def analytic_plan(config: Config, topology: Topology) -> Plan:
    """Plans a config without a compiler.

    Args:
      config: valid; the model of `init_from` is already in it.
      topology: the devices.

    Raises:
      UserError: sizes do not divide over the mesh, the mesh does not fit the devices, or these
        have no products of the config's quantization.
    """
    model = resolve(config.model, vocabulary_of(config))
    check_quantization(config.compute, topology.chip)
    sizes = mesh_sizes(config.mesh, topology.devices, topology.kind)
    stage = config.data.largest_stage
    check_divides(config, model, sizes, stage)
    state = state_bytes(config, model, sizes)
    names = tuple((sizes | dict.fromkeys(ROWS, 1)).items())
    compute, on_cpu = config.compute, topology.platform == "cpu"
    row = Row(model, compute, stage.length, names, on_cpu)
    whole = replace(row, compute=replace(compute, remat="none", offload=()))
    accumulate = config.optimizer.accumulate
    parts = accumulate * math.prod(sizes[axis] for axis in ROWS)
    rows = stage.batch_size / parts
    schedule = schedule_of(compute, sizes[STAGES], round(rows * sizes[STAGES]))
    memory = analytic_memory(
        model,
        state,
        kept_bytes(row),
        kept_bytes(whole),
        Shares(
            math.prod(sizes[axis] for axis in WEIGHTS),
            sizes[HEADS],
            sizes[LENGTH],
            schedule,
            compute.expert_buffer if sizes[EXPERTS] > 1 else 1.0,
        ),
        rows=rows,
        length=stage.length,
        accumulate=accumulate,
        width=2 if compute.dtype == "bfloat16" else 4,
        on_cpu=on_cpu,
    )
    if config.replay.every:
        memory = with_copies(memory, 1)
    flops = Flops() if topology.chip is None else product_flops(row)
    work = Work(model, compute, state, flops, sizes, rows, stage.length, accumulate, schedule)
    time = None if topology.chip is None else analytic_time(work, topology)
    parameters = parameters_by_kind(model, compute)
    return Plan(
        config, model, topology, sizes, stage, parameters, memory, time, state.checkpoint, work
    )


def state_fits(config: Config, topology: Topology) -> bool:
    """Whether parameters, gradients and optimizer alone fit, which needs no trace.

    Raises:
      UserError: as `analytic_plan`.
    """
    model = resolve(config.model, vocabulary_of(config))
    sizes = mesh_sizes(config.mesh, topology.devices, topology.kind)
    state = state_bytes(config, model, sizes)
    needed = state.parameters + state.trained + state.optimizer
    return topology.memory is None or needed <= topology.memory


def check_divides(
    config: Config, model: ModelConfig, sizes: Mapping[str, int], stage: Stage
) -> None:
    """Checks that parameters and batches divide over a mesh.

    Raises:
      UserError: they do not.
    """
    with jax.sharding.use_abstract_mesh(abstract_mesh(sizes, "cpu")):
        check_mesh(model, config.compute)
    parts = math.prod(sizes[axis] for axis in ROWS) * config.optimizer.accumulate
    if stage.batch_size % parts:
        names = " x ".join(
            present(
                dict.fromkeys(reversed(ROWS), 1) | {axis: sizes[axis] for axis in OPTIONAL_AXES}
            )
        )
        fix = f"give a multiple of {parts} ({names} x accumulate), or another mesh"
        raise UserError(f"data.batch_size {stage.batch_size}", f"does not divide by {parts}", fix)
    rows = stage.batch_size // parts * sizes[STAGES]
    check_microbatches(config.compute, sizes[STAGES], rows)
    parts = sizes[LENGTH] * sizes[HEADS]
    if stage.length % parts:
        fix = f"give a multiple of {parts} (sequence x tensor), or another mesh"
        raise UserError(f"data.length {stage.length}", f"does not divide by {parts}", fix)
