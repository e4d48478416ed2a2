"""All-to-all attention: devices exchange lengths for heads (DeepSpeed Ulysses, arXiv:2309.14509).

Rows arrive split along their length, with all heads of the device. After the exchange each device
has whole rows of its share of the heads, to which any implementation of attention applies, and the
outputs are exchanged back. Where there are fewer key heads than devices, each is sent to all the
devices whose queries use it.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from llmjax.model.attention.fused import SINK_AXES
from llmjax.model.attention.mask import AttentionInputs
from llmjax.model.layers import DECODE
from llmjax.parallel import exchanges, mesh
from llmjax.parallel.mesh import Axes

LENGTH = "length"
KEYS: Axes = ("batch", LENGTH, "kv_heads", "head_dim")
ROWS: Axes = ("batch", None)


def all_to_all(
    inputs: AttentionInputs, attend: Callable[[AttentionInputs], jax.Array]
) -> jax.Array:
    """As `attend`, for self-attention with keys and values split along the length as the queries.

    Args:
      inputs: their heads divide over the devices that split the length.
      attend: attention of whole rows, for one device.
    """
    q, k, v, mask, sharding = inputs[:5]

    def local(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        query_segments: jax.Array | None,
        key_segments: jax.Array | None,
        sinks: jax.Array | None,
    ) -> tuple[jax.Array]:
        copies = max(mesh.parts(LENGTH) // k.shape[2], 1)
        k, v = (jnp.repeat(x, copies, axis=2) for x in (k, v))
        q, k, v = (exchanges.all_to_all(x, LENGTH, 2, 1) for x in (q, k, v))
        segments = replace(mask, query_segments=query_segments, key_segments=key_segments)
        if sinks is not None:
            first = q.shape[2] * mesh.part_index(LENGTH)
            sinks = jax.lax.dynamic_slice_in_dim(sinks, first, q.shape[2], axis=1)
        arrays = inputs._replace(q=q, k=k, v=v, mask=segments, sharding=DECODE, sinks=sinks)
        out = attend(arrays)
        return (exchanges.all_to_all(out, LENGTH, 1, 2),)

    heads = sharding.heads()
    run = mesh.per_device(local, (heads, KEYS, KEYS, ROWS, ROWS, SINK_AXES), (heads,))
    return run(q, k, v, mask.query_segments, mask.key_segments, inputs.sinks)[0]
