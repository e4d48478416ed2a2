"""Expert parallelism: tokens go to the devices that hold their experts, and results return.

How many tokens a device receives is known only when they are routed, while buffers have fixed
sizes. So each device sends every other up to a fixed number of tokens, in an all-to-all, as often
as the fullest pair of devices needs: usually once. No token is dropped, and memory is bounded
however uneven the routing is. Nothing of a round is kept for the backward pass, which sends the
tokens again and repeats the first products.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from llmjax.model import expert_products
from llmjax.model.expert_products import ExpertParams, ExpertProduct, Gradients, Inner
from llmjax.model.expert_rows import SortedChoices, Tokens, sort
from llmjax.parallel import exchanges, mesh

Sums = TypeVar("Sums")

ALIGNMENT = 8
"""Tokens of a pair of devices are a multiple of this, as tiles of TPUs are."""


class Rounds(NamedTuple):
    """A device's M choices in order of experts, and so of the P devices that they go to."""

    rows: SortedChoices
    experts: int
    """That each device holds, in order."""
    starts: jax.Array
    """int32 [P]: the first choice of each device."""
    counts: jax.Array
    """int32 [P]: choices of each device."""
    size: int
    """C: most choices that go from one device to another in a round."""
    number: jax.Array
    """int32: of rounds, the same on all devices."""

    def received(self, tokens: Tokens, turn: jax.Array) -> tuple[Tokens, SortedChoices]:
        """The tokens that this device's experts compute, [1, P C, ...], each with one choice."""
        index, goes = self._sent(turn)
        token = self.rows.token[index]
        expert = self.rows.expert[index] % self.experts
        sent = Tokens(
            jnp.where(goes[..., None], tokens.rows[token], 0),
            jnp.where(goes, self.rows.weight[index, 0], 0)[..., None],
            jnp.where(goes, expert, self.experts)[..., None],
        )
        found = Tokens(*(_exchange(part).reshape(1, -1, part.shape[-1]) for part in sent))
        return found, sort(found, self.experts)

    def to_experts(self, values: jax.Array, turn: jax.Array) -> jax.Array:
        """What the tokens have, [b l, D], where their experts are: [P C, D]."""
        index, goes = self._sent(turn)
        sent = jnp.where(goes[..., None], values[self.rows.token[index]], 0)
        return _exchange(sent).reshape(-1, values.shape[-1])

    def to_choices(self, values: jax.Array, turn: jax.Array, tokens: int) -> jax.Array:
        """Returns [P C, D] to the choices, [K, tokens, D]; zeros for those of other rounds."""
        back = _exchange(values.reshape(len(self.starts), self.size, -1))
        device = jnp.minimum(self.rows.expert // self.experts, len(self.starts) - 1)
        place = jnp.arange(len(device)) - self.starts[device] - turn * self.size
        is_here = (place >= 0) & (place < self.size) & self.rows.is_chosen[:, 0]
        slot = jnp.where(is_here, device * self.size + place, back.shape[0] * back.shape[1])
        slots = slot[self.rows.place.reshape(tokens, -1).T]
        return back.reshape(-1, back.shape[-1]).at[slots].get(mode="fill", fill_value=0)

    def _sent(self, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The choices sent to each device, [P, C], and which of them are some."""
        place = turn * self.size + jnp.arange(self.size)
        index = jnp.minimum(self.starts[:, None] + place, len(self.rows.order) - 1)
        return index, place < self.counts[:, None]


def forward(how: ExpertProduct, tokens: Tokens, params: ExpertParams) -> jax.Array:
    """As `expert_products`, of this device's tokens by the experts of all: float32 [b l, D]."""
    rounds = _rounds(how, tokens, params)

    def add(turn: jax.Array, y: jax.Array) -> jax.Array:
        given, rows, inner = _first_products(how, rounds, tokens, params, turn)
        found = expert_products.last_product(how, given, rows, params, inner)
        return y + _per_token(rounds, found.astype(tokens.x.dtype), turn, len(y))

    zeros = jnp.zeros(tokens.rows.shape, jnp.float32)
    return _in_rounds(rounds, add, zeros)


def backward(how: ExpertProduct, dy: jax.Array, tokens: Tokens, params: ExpertParams) -> Gradients:
    """The gradients of this device's tokens and experts, given that of the output, [b l, D]."""
    rounds, dtype = _rounds(how, tokens, params), tokens.x.dtype

    def add(turn: jax.Array, sums: Gradients) -> Gradients:
        given, rows, inner = _first_products(how, rounds, tokens, params, turn)
        back = rounds.to_experts(dy, turn)
        found = expert_products.backward(how, back, given, rows, params, inner)
        x = _per_token(rounds, found.x.astype(dtype), turn, len(sums.x))
        weights = rounds.to_choices(found.weights, turn, len(sums.x))[..., 0].T
        return jax.tree.map(jnp.add, sums, Gradients(x, weights, found.params))

    zeros = Gradients(
        jnp.zeros(tokens.rows.shape, jnp.float32),
        jnp.zeros((len(tokens.rows), tokens.weights.shape[-1]), jnp.float32),
        jax.tree.map(lambda param: jnp.zeros(param.shape, how.gradient_dtype), params),
    )
    return _in_rounds(rounds, add, zeros)


def _in_rounds(rounds: Rounds, add: Callable[[Any, Sums], Sums], zeros: Sums) -> Sums:
    """Runs `add` for each round. The first is not in the loop, so that compilers let its exchanges
    run beside other work."""
    return jax.lax.fori_loop(1, rounds.number, add, add(jnp.int32(0), zeros))


def _rounds(how: ExpertProduct, tokens: Tokens, params: ExpertParams) -> Rounds:
    devices, experts = mesh.parts("experts"), len(params.up)
    rows = sort(tokens, devices * experts)
    counts = rows.sizes.reshape(devices, experts).sum(1)
    equal = math.ceil(how.buffer * len(rows.order) / devices)
    size = min(-(-equal // ALIGNMENT) * ALIGNMENT, len(rows.order))
    needed = -(-counts.max() // size)
    axes = ("batch", how.sharding.length, "mlp")
    everywhere = tuple(name for axis in axes for name in mesh.mesh_axes(axis))
    number = jax.lax.pmax(needed, everywhere)
    return Rounds(rows, experts, jnp.cumsum(counts) - counts, counts, size, number)


def _first_products(
    how: ExpertProduct, rounds: Rounds, tokens: Tokens, params: ExpertParams, turn: jax.Array
) -> tuple[Tokens, SortedChoices, Inner]:
    given, rows = rounds.received(tokens, turn)
    return given, rows, expert_products.first_products(how, given, rows, params)


def _per_token(rounds: Rounds, values: jax.Array, turn: jax.Array, tokens: int) -> jax.Array:
    """Returns [P C, D] to the tokens and adds up their choices, in float32: [b l, D]."""
    return rounds.to_choices(values, turn, tokens).astype(jnp.float32).sum(0)


def _exchange(values: jax.Array) -> jax.Array:
    """[P, ...] for each device -> [P, ...] from each."""
    return exchanges.all_to_all(values, "experts", 0, 0)
