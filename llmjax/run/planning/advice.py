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
            "mesh.fsdp": (self.mesh.fsdp, config.mesh.fsdp),
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
    """The settings of a search: meshes of data, fsdp and tensor, remat policies, and microbatches.

    The batch of a step stays, since it is part of the training.
    """
    devices = topology.devices // config.mesh.sequence
    heads = config.model.kv_heads
    for tensor in _powers(min(MOST_TENSOR, topology.domain, heads)):
        if heads % tensor or devices % tensor:
            continue
        for data in _replicas(devices // tensor, topology):
            mesh = replace(config.mesh, data=data, fsdp=devices // tensor // data, tensor=tensor)
            for accumulate in _microbatches(config, devices // tensor):
                for remat in get_args(Remat):
                    if remat != "attention":  # the same as none with fused attention
                        yield Candidate(mesh, remat, accumulate)


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
