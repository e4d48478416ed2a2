"""What to change so that a config fits its devices, and candidates for a search."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from llmjax.errors import UserError
from llmjax.model.compute import Remat
from llmjax.parallel.mesh import LOGICAL_TO_MESH, MeshConfig
from llmjax.run.config.schema import Config
from llmjax.run.planning.plan import Plan, analytic_plan, state_fits
from llmjax.run.planning.topology import Topology

WEIGHTS = LOGICAL_TO_MESH["embed"]
(HEADS,) = LOGICAL_TO_MESH["heads"]
MOST_TENSOR = 8
"""Devices that split heads, at most, in a search."""
MOST_EXPERT = 64
"""Devices that split experts, at most, in a search."""
MOST_STAGES = 16
"""Stages, at most, in a search."""
MOST_ROWS = 16
"""Rows of a device at a time, at most, in a search."""


@dataclass(frozen=True)
class Candidate:
    """A setting that a search tries."""

    mesh: MeshConfig
    remat: str
    accumulate: int

    def applied(self, config: Config) -> Config:
        """The config with this setting."""
        return replace(
            config,
            mesh=self.mesh,
            compute=replace(config.compute, remat=self.remat),
            optimizer=replace(config.optimizer, accumulate=self.accumulate),
        )

    def options(self, config: Config) -> str:
        """What to pass to `llmjax train`, besides what the config says already."""
        words = {
            "mesh.data": (self.mesh.data, config.mesh.data),
            "mesh.stage": (self.mesh.stage, config.mesh.stage),
            "mesh.fsdp": (self.mesh.fsdp, config.mesh.fsdp),
            "mesh.expert": (self.mesh.expert, config.mesh.expert),
            "mesh.tensor": (self.mesh.tensor, config.mesh.tensor),
            "compute.remat": (self.remat, config.compute.remat),
            "optimizer.accumulate": (self.accumulate, config.optimizer.accumulate),
        }
        return " ".join(f"--{name} {new}" for name, (new, old) in words.items() if new != old)


def advice(plan: Plan) -> Iterator[str]:
    """What to change if a plan does not fit, a line each; nothing if it does."""
    if plan.fits is not False:
        return
    available = plan.topology.memory
    assert available is not None
    if (found := nearest(plan.config, plan.topology)) is not None:
        yield f"this fits: {found.options(plan.config)}"
        return
    if plan.memory.state > available:
        devices = math.prod(plan.sizes[axis] for axis in WEIGHTS) * math.ceil(
            plan.memory.state / available
        )
        yield f"parameters, gradients and optimizer state need at least {devices} of these devices"
    else:
        yield "shorten rows (--data.length), or take more devices"


def nearest(config: Config, topology: Topology) -> Candidate | None:
    """The first setting that fits, changing what costs least time first; None: none does."""
    devices = topology.devices
    whole = replace(config.mesh, data=1, fsdp=-1)
    meshes = dict.fromkeys((config.mesh, whole))
    for mesh in meshes:
        for remat in _remats(config.compute.remat):
            for accumulate in _accumulations(config, devices):
                candidate = Candidate(mesh, remat, accumulate)
                if _fits(config, candidate, topology):
                    return candidate
    return None


def _remats(remat: str) -> tuple[str, ...]:
    return (remat,) if remat == "full" else (remat, "full")


def _fits(config: Config, candidate: Candidate, topology: Topology) -> bool:
    changed = candidate.applied(config)
    try:
        return state_fits(changed, topology) and bool(analytic_plan(changed, topology).fits)
    except UserError:
        return False


def _accumulations(config: Config, devices: int) -> Iterator[int]:
    """The config's own number of microbatches, and multiples of it, up to a row for each device."""
    count = config.optimizer.accumulate
    while count <= config.data.batch_size:
        yield count
        count *= 2


def candidates(config: Config, topology: Topology) -> Iterator[Candidate]:
    """The settings of a search: meshes, remat policies, and microbatches.

    The batch of a step stays, since it is part of the training.
    """
    for mesh in _meshes(config, topology):
        for accumulate in _microbatches(config, mesh.data * mesh.stage * mesh.fsdp * mesh.expert):
            for remat in get_args(Remat):
                if remat != "attention":  # the same as none with fused attention
                    yield Candidate(mesh, remat, accumulate)


def _meshes(config: Config, topology: Topology) -> Iterator[MeshConfig]:
    """Meshes that divide the devices: of tensor within a domain, data and stage between domains,
    expert, and fsdp for the rest."""
    devices = topology.devices // config.mesh.sequence
    heads, moe = config.model.kv_heads, config.model.moe
    most_experts = 1 if moe is None else math.gcd(moe.num_experts, devices)
    for tensor in _powers(min(MOST_TENSOR, topology.domain, heads)):
        if heads % tensor or devices % tensor:
            continue
        for data, stage in _between_domains(config, devices // tensor, topology):
            rest = devices // tensor // data // stage
            for expert in _powers(min(MOST_EXPERT, most_experts)):
                if rest % expert == 0:
                    fsdp = rest // expert
                    yield replace(
                        config.mesh, data=data, stage=stage, fsdp=fsdp, expert=expert, tensor=tensor
                    )


def _between_domains(config: Config, devices: int, topology: Topology) -> Iterator[tuple[int, int]]:
    """Numbers of replicas and of stages; not both, and one of each without several domains."""
    yield from ((data, 1) for data in _replicas(devices, topology))
    domains = topology.devices // topology.domain
    layers = config.model.num_decoder_layers + config.model.num_encoder_layers
    for stage in _powers(min(MOST_STAGES, domains)):
        if stage > 1 and layers % stage == 0 and devices % stage == 0:
            yield 1, stage


def _replicas(devices: int, topology: Topology) -> list[int]:
    """Copies of the model: one, and one in each domain."""
    domains = topology.devices // topology.domain
    return [1, *([domains] if domains > 1 and devices % domains == 0 else [])]


def _microbatches(config: Config, devices: int) -> Iterator[int]:
    """Numbers of microbatches that give each device 1, 2, 4, … rows at a time."""
    for rows in _powers(MOST_ROWS):
        if config.data.batch_size % (rows * devices) == 0:
            yield config.data.batch_size // (rows * devices)


def _powers(limit: int) -> Iterator[int]:
    power = 1
    while power <= limit:
        yield power
        power *= 2
