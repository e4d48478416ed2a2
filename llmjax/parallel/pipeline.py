"""Pipeline parallelism: stages hold parts of the layers, and microbatches pass through them.

The schedule is circular: with R rounds, layers are cut into stages x R groups, of which stage s
holds the groups s, s + stages, s + 2 stages, …, and a microbatch goes around R times. In each
iteration of a scan, every stage computes one group for one microbatch and passes the result on to
the next stage. With M microbatches there are M R + stages - 1 iterations, of which each stage
computes M R on real microbatches; the rest is the bubble (GPipe, arXiv:1811.06965, for R = 1;
interleaving, arXiv:2104.04473, section 2.2). The backward pass is the scan's derivative, in the
reverse order, with a bubble as large.

Rows are split over stages too, outside of the layers. A belt brings each microbatch from the stage
that embedded it to the first stage, one stage in each iteration, and takes results from the last
stage to where the rows came from.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from llmjax.parallel import mesh
from llmjax.parallel.microbatches import join, split

GROUP = "group"
"""Checkpoint name of the layers that are selected in an iteration."""

Tree = Any
Names = tuple[str, ...]


class Schedule(NamedTuple):
    """How microbatches pass through the stages."""

    stages: int
    microbatches: int
    """Of a batch; a multiple of the stages."""
    rounds: int = 1

    @property
    def iterations(self) -> int:
        """Of the scan, in each of which a stage computes one group of layers."""
        return self.microbatches * self.rounds + self.stages - 1

    @property
    def waiting(self) -> float:
        """The time in which a stage waits, as a multiple of that in which it computes."""
        return (self.stages - 1) / (self.microbatches * self.rounds)

    @property
    def bubble(self) -> float:
        """The share of a step's time in which a stage waits."""
        return (self.stages - 1) / self.iterations


NO_PIPELINE = Schedule(stages=1, microbatches=1)
"""All layers on each device."""


class Slot(NamedTuple):
    """What a stage computes in an iteration: int32 [] each, within range even in the bubble."""

    group: jax.Array
    """Of the layers, in their order."""
    microbatch: jax.Array


Compute = Callable[[Tree, jax.Array, Tree, Tree, Slot], tuple[jax.Array, Tree]]
"""(a group's layers [layers, ...], x of the microbatch, its rows, what is shared, slot) -> x and
sums, arrays []."""


def run(
    compute: Compute,
    layers: Tree,
    x: jax.Array,
    rows: Tree,
    shared: Tree,
    schedule: Schedule,
    policy: Callable[..., Any],
) -> tuple[jax.Array, Tree]:
    """Passes rows through all layers.

    Args:
      compute: one group of layers.
      layers: arrays [count, ...] with the axis "layers" first, where groups divide count.
      x: [B, ...], split over rows as "batch".
      rows: arrays [B, ...] that the layers of every stage read, split as x, without derivative.
      shared: arrays that are the same for all rows, not split over stages.
      schedule: its microbatches divide the rows of the devices of a stage.
      policy: of `jax.checkpoint`: what is kept of a group, where a stage has several. It must not
        keep what is named `GROUP`.

    Returns:
      x, and the sums over all groups and microbatches, without those of the bubble.
    """
    names = mesh.mesh_axes("layers")
    first, last = PartitionSpec(names), PartitionSpec()

    of_round = compute
    if schedule.rounds > 1:
        of_round = jax.checkpoint(
            _one_round(compute, schedule.stages), policy=policy, prevent_cse=False
        )

    def local(layers: Tree, x: jax.Array, rows: Tree, shared: Tree) -> tuple[jax.Array, Tree]:
        groups = jax.tree.map(lambda leaf: _own_groups(leaf, names, schedule), layers)
        belt = split(x, schedule.microbatches // schedule.stages)
        everywhere = jax.tree.map(lambda leaf: _gathered(leaf, names, schedule), rows)
        belt, sums = _circulate(of_round, groups, belt, everywhere, shared, names, schedule)
        return join(belt), sums

    specs = (first, first, first, last)
    pipeline = jax.shard_map(
        local, in_specs=specs, out_specs=(first, last), axis_names=set(names), check_vma=False
    )
    return pipeline(jax.tree.map(_stored, layers), x, rows, shared)


@jax.custom_vjp
def _stored(leaf: jax.Array) -> jax.Array:
    """The same; its gradient is kept as it is split.

    At the border of a `shard_map` over some mesh axes, JAX takes arrays as not split over the
    others. Compilers leave out the gather if it is sliced at once, but not if what uses it is fused
    with the slice: then all gradients of a stage would be gathered.
    """
    return leaf


def _stored_backward(_: None, dy: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.optimization_barrier(dy),)


_stored.defvjp(lambda leaf: (leaf, None), _stored_backward)


def _one_round(compute: Compute, stages: int) -> Compute:
    """`Compute` of a stage's groups, of which it selects the one of the slot.

    Selected layers are named, so that the backward pass selects them again: each iteration would
    otherwise keep a copy of them.
    """

    def run(groups: Tree, x: jax.Array, rows: Tree, shared: Tree, slot: Slot) -> tuple:
        index = slot.group // stages
        here = jax.tree.map(lambda leaf: checkpoint_name(_at(leaf, index), GROUP), groups)
        return compute(here, x, rows, shared, slot)

    return run


def _own_groups(leaf: jax.Array, names: Names, schedule: Schedule) -> jax.Array:
    """The layers of this stage's groups, [rounds, layers, ...], of its part of all layers; without
    the first dimension if there is one round.

    Stored layers are in order, so a stage's part is consecutive groups, which go to the stages in
    turn: in each of `rounds` exchanges, every stage sends one of its groups and receives one.
    """
    stages, rounds = schedule.stages, schedule.rounds
    if rounds == 1:
        return leaf
    stored = leaf.reshape(rounds, len(leaf) // rounds, *leaf.shape[1:])
    place, own = jax.lax.axis_index(names), jnp.zeros_like(stored)
    for sent, targets, kept in _exchanges(stages, rounds):
        group = _at(stored, jnp.array(sent)[place])
        group = jax.lax.ppermute(group, names, list(enumerate(targets)))
        own = jax.lax.dynamic_update_index_in_dim(own, group, jnp.array(kept)[place], 0)
    return own


def _exchanges(stages: int, rounds: int) -> list[tuple[np.ndarray, list[int], np.ndarray]]:
    """Exchanges of groups: by stage, the index of the group that it sends and the stage that this
    is for; and, by receiving stage, the round of what it gets.

    Group g is stored by stage g // rounds and computed by stage g % stages. Stages a multiple of
    stages / gcd apart store groups that go to the same stages in the same order, so each of them
    begins one later.
    """
    stage, result = np.arange(stages), []
    for first in range(rounds):
        sent = (first + stage * math.gcd(stages, rounds) // stages) % rounds
        group = stage * rounds + sent
        kept = np.zeros(stages, np.int32)
        kept[group % stages] = group // stages
        result.append((sent, (group % stages).tolist(), kept))
    return result


def _gathered(leaf: jax.Array, names: Names, schedule: Schedule) -> jax.Array:
    """All microbatches' rows, [microbatches, B, ...]."""
    parts = split(leaf, schedule.microbatches // schedule.stages)
    return jax.lax.all_gather(parts, names, tiled=True)


def _circulate(
    compute: Compute,
    groups: Tree,
    belt: jax.Array,
    rows: Tree,
    shared: Tree,
    names: Names,
    schedule: Schedule,
) -> tuple[jax.Array, Tree]:
    """Runs the schedule on one stage.

    The belt's entry i % parts moves one stage back in iteration i, so that microbatch i is at the
    first stage then; there, at the last stage, its place is free for a result, which is back at the
    stage of its rows when all iterations are done. A microbatch that returns to the first stage
    waits there until all others have left.

    Args:
      compute: the slot's group of this stage's.
      groups: this stage's, as of `_own_groups`.
      belt: [parts, B, ...], this stage's microbatches.
      rows: arrays [microbatches, B, ...].
      shared: as of `run`.
      names: mesh axes of the stages.
      schedule: the schedule.
    """
    stages, count, rounds = schedule
    place, parts, waits = jax.lax.axis_index(names), len(belt), count - stages
    onward = [(stage, (stage + 1) % stages) for stage in range(stages)]
    back = [(target, source) for source, target in onward]
    is_first, is_last = place == 0, place == stages - 1

    def iteration(carry: tuple, time: jax.Array) -> tuple[tuple, Tree]:
        belt, arrived, waiting = carry
        entering = _at(belt, time % parts)
        if rounds == 1:
            first = entering
        else:
            waiting = _put(waiting, arrived, (time - stages) % (waits + 1))
            returned = _at(waiting, (time - count) % (waits + 1))
            first = jnp.where(time < count, entering, returned)
        item = time - place
        is_real = (item >= 0) & (item < count * rounds)
        item = jnp.clip(item, 0, count * rounds - 1)
        slot = Slot(item // count * stages + place, item % count)
        read = jax.tree.map(lambda leaf: _at(leaf, slot.microbatch), rows)
        y, sums = compute(groups, jnp.where(is_first, first, arrived), read, shared, slot)
        sums = jax.tree.map(lambda leaf: jnp.where(is_real, leaf, jnp.zeros_like(leaf)), sums)
        leaving = jnp.where(is_last, y, jax.lax.ppermute(entering, names, back))
        belt = _put(belt, leaving, time % parts)
        return (belt, jax.lax.ppermute(y, names, onward), waiting), sums

    waiting = None if rounds == 1 else jnp.stack([belt[0]] * (waits + 1))
    start = (belt, belt[0], waiting)
    (belt, _, _), sums = jax.lax.scan(iteration, start, jnp.arange(schedule.iterations))
    sums = jax.tree.map(lambda leaf: jax.lax.psum(leaf.sum(0), names), sums)
    return jnp.roll(belt, 1 - stages, axis=0), sums


def _at(array: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(array, index, 0, keepdims=False)


def _put(array: jax.Array, part: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(array, part, index, 0)
