"""A device's tokens, and their choices of experts in order of experts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Tokens(NamedTuple):
    """A device's tokens; each chooses K of N experts."""

    x: jax.Array
    """[b, l, D]."""
    weights: jax.Array
    """[b, l, K] float32."""
    chosen: jax.Array
    """[b, l, K] int32; N for none."""

    @property
    def rows(self) -> jax.Array:
        """[b l, D]."""
        return self.x.reshape(-1, self.x.shape[-1])


class SortedChoices(NamedTuple):
    """The choices of a device's tokens in order of experts: M = b l K of them."""

    order: jax.Array
    """int32 [M]: the index of each choice in [b, l, K]."""
    token: jax.Array
    """int32 [M]: that of its token in [b, l]."""
    expert: jax.Array
    """int32 [M]: N for choices of none, which are last."""
    sizes: jax.Array
    """int32 [N]: choices of each expert."""
    weight: jax.Array
    """float32 [M, 1]: 0 for choices of none."""

    @property
    def is_chosen(self) -> jax.Array:
        """bool [M, 1]: whether it is a choice of an expert."""
        return (self.expert < len(self.sizes))[:, None]

    @property
    def place(self) -> jax.Array:
        """int32 [M]: where each choice is in order of experts."""
        return jnp.zeros_like(self.order).at[self.order].set(jnp.arange(self.order.shape[0]))

    def per_choice(self, values: jax.Array) -> jax.Array:
        """Values in the order of choices, [M, ...] -> [M, ...]."""
        return values[self.place]

    def per_token(self, values: jax.Array, tokens: int) -> jax.Array:
        """Adds up the values of each token's choices, [M, D] -> float32 [tokens, D]."""
        # Choices first: TPUs pad the last but one dimension of an array to a multiple of 8.
        return values[self.place.reshape(tokens, -1).T].astype(jnp.float32).sum(0)

    def per_expert(self, values: jax.Array) -> jax.Array:
        """Adds up the values of each expert's choices, [M, D] -> [N, D]."""
        zeros = jnp.zeros((len(self.sizes), values.shape[-1]), values.dtype)
        return zeros.at[self.expert].add(values, mode="drop")

    def bias(self, bias: jax.Array) -> jax.Array:
        """The bias of each choice's expert, [N, D] -> [M, D]; zeros for choices of none."""
        return bias.at[self.expert].get(mode="fill", fill_value=0)


def sort(tokens: Tokens, experts: int, order: jax.Array | None = None) -> SortedChoices:
    """Sorts choices by expert, of which there are `experts`; `order` if it is known."""
    chosen = tokens.chosen.reshape(-1)
    order = jnp.argsort(chosen) if order is None else order.reshape(-1)
    expert = chosen[order]
    sizes = jnp.zeros(experts, jnp.int32).at[chosen].add(1, mode="drop")
    weight = jnp.where(expert < experts, tokens.weights.reshape(-1)[order], 0)
    return SortedChoices(order, order // tokens.chosen.shape[-1], expert, sizes, weight[:, None])
