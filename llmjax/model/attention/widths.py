"""Kernels that need keys and values of one width, for models whose values have their own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llmjax.model.attention.mask import AttentionInputs


def widest(inputs: AttentionInputs) -> int:
    """The width of a head's keys or of its values, whichever is larger."""
    return max(inputs.q.shape[-1], inputs.v.shape[-1])


def equal_widths(
    attend: Callable[[AttentionInputs], jax.Array],
) -> Callable[[AttentionInputs], jax.Array]:
    """Attention of any widths by one of equal widths, to which zeros are added."""

    def padded(inputs: AttentionInputs) -> jax.Array:
        q, k, v = inputs[:3]
        width, keys, values = widest(inputs), q.shape[-1], v.shape[-1]
        if keys == values:
            return attend(inputs)
        q, k, v = (
            jnp.pad(x, [(0, 0)] * 3 + [(0, width - x.shape[-1])]) if x.shape[-1] < width else x
            for x in (q, k, v)
        )
        if width != keys:  # the scale is that of the padded width
            q = q * jnp.asarray((width / keys) ** 0.5, q.dtype)
        return attend(inputs._replace(q=q, k=k, v=v))[..., :values]

    return padded
