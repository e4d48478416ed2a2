"""Attention of cached compressed vectors, with the projections of keys and values absorbed.

A head's score q (W c) is (W^T q) c, and its output, the weighted sum of W c, is W times that of c
(arXiv:2405.04434, section 2.1.2). So the cache is read as it is, by all heads at once.
"""

import jax
import jax.numpy as jnp

from llmjax.model.attention.attention import softmax
from llmjax.model.attention.mask import Mask
from llmjax.model.products import einsum
from llmjax.model.softcap import soft_cap
from llmjax.parallel import mesh


def attend_absorbed(
    queries: tuple[jax.Array, jax.Array],
    cached: tuple[jax.Array, jax.Array],
    weights: tuple[jax.Array, jax.Array],
    mask: Mask,
    softcap: float | None = None,
) -> jax.Array:
    """softmax(q k^T) v, where k and v are projections of compressed vectors.

    Args:
      queries: scaled, [B, T, H, nope] and, rotated, [B, T, H, rope].
      cached: rotated keys [B, 1, rope, S], and compressed vectors [B, 1, S, C].
      weights: projections of compressed vectors to keys, [C, H, nope], and to values, [C, H, V].
      mask: which keys each query sees.
      softcap: as in `AttentionInputs`.

    Returns:
      [B, T, H, V] in the dtype of the queries.
    """
    dtype = queries[0].dtype
    if mesh.platform() == "cpu":  # which is slow at, or refuses, batched bfloat16 products
        queries, cached, weights = jax.tree.map(
            lambda x: x.astype(jnp.float32), (queries, cached, weights)
        )
    (nope, rope), (keys, vectors), (to_key, to_value) = queries, cached, weights
    keys, vectors = keys[:, 0], vectors[:, 0]
    absorbed = einsum("bthk,chk->bhtc", nope, to_key).astype(vectors.dtype)
    scores = einsum("bhtc,bsc->bhts", absorbed, vectors) + einsum("bthr,brs->bhts", rope, keys)
    visible = mask.dense(scores.shape[2], scores.shape[3])
    # The heads stand where others have groups of a key head.
    shares = softmax(soft_cap(scores, softcap)[:, None], visible)[:, 0].astype(vectors.dtype)
    sums = einsum("bhts,bsc->bhtc", shares, vectors).astype(vectors.dtype)
    return einsum("bhtc,chv->bthv", sums, to_value).astype(dtype)
