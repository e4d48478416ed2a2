"""Beam search: the likeliest continuations that a bounded memory finds, in one device call.

Each prompt keeps `beams` unfinished hypotheses, the likeliest ones, and the `beams` best finished
ones (ended by EOS, or as long as they may be). They are ranked by log-probability / tokens **
length_penalty, EOS counted. The search ends when no unfinished one can still come among the best.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from llmjax.data.tokenizer import Tokenizer
from llmjax.decoding.config import DecodingConfig
from llmjax.decoding.rows import Row, bucket, start
from llmjax.mesh import reshard, use_mesh
from llmjax.model import Cache, Model, Params


class Hypothesis(NamedTuple):
    """A finished continuation: its tokens (EOS included where it came) and their nats."""

    tokens: list[int]
    nats: list[float]
    score: float


class Beams(NamedTuple):
    """Hypotheses of N prompts, W each.

    Attributes:
      total: float32 [N, W], log-probability (unfinished) or score (finished); -inf: none.
      tokens: int32 [N, W, M], -1 behind the end.
      nats: float32 [N, W, M].
    """

    total: Array
    tokens: Array
    nats: Array


class Search(NamedTuple):
    """Between two steps: `step` tokens are written, `last` int32 [N, W] the latest of each."""

    step: Array
    cache: Cache
    last: Array
    live: Beams
    done: Beams


def beam_search(
    model: Model,
    params: Params,
    rows: Sequence[Row],
    config: DecodingConfig,
    *,
    tokenizer: Tokenizer,
    mesh: Mesh | None = None,
) -> list[list[Hypothesis]]:
    """The best hypotheses of each row's prompt, best first: at most `config.beams` of them."""
    state = start(model, params, rows, bos_id=tokenizer.bos_id, mesh=mesh)
    with use_mesh(mesh):
        done = _search(
            model,
            params,
            state.cache,
            state.tokens,
            state.positions,
            state.left,
            np.float32(config.length_penalty),
            np.int32(tokenizer.eos_id),
            np.int32(tokenizer.vocab_size),
            beams=config.beams,
            length=bucket(max(row.limit for row in rows)),
        )
    arrays = [np.asarray(array) for array in done]
    return [_hypotheses(*(array[number] for array in arrays)) for number in range(len(rows))]


def _hypotheses(totals: np.ndarray, texts: np.ndarray, costs: np.ndarray) -> list[Hypothesis]:
    found = []
    for total, tokens, nats in zip(totals, texts, costs, strict=True):
        size = int((tokens >= 0).sum())
        if np.isfinite(total):
            found.append(Hypothesis(tokens[:size].tolist(), nats[:size].tolist(), float(total)))
    return found


@partial(jax.jit, static_argnames=("model", "beams", "length"))
def _search(
    model: Model,
    params: Params,
    cache: Cache,
    tokens: Array,
    positions: Array,
    limits: Array,
    penalty: Array,
    eos_id: Array,
    vocab_size: Array,
    *,
    beams: int,
    length: int,
) -> Beams:
    """tokens, positions and limits are int32 [N]: each prompt's latest token, its place, its room.

    All but the cache is whole on every device: it is small, and rows trade places at every step.
    """
    tokens, positions, limits = (reshard(array, None) for array in (tokens, positions, limits))
    count = tokens.shape[0]
    origin = jnp.repeat(jnp.arange(count), beams)

    def none() -> Beams:
        shape = (count, beams, length)
        return Beams(
            jnp.full(shape[:2], -jnp.inf), jnp.full(shape, -1, jnp.int32), jnp.zeros(shape)
        )

    first = none()
    live = first._replace(total=first.total.at[:, 0].set(0.0))
    last = jnp.broadcast_to(tokens[:, None], (count, beams))
    search = Search(jnp.int32(0), cache.take(origin), last, live, none())

    def rank(total: Array, size: Array) -> Array:
        return total / size.astype(jnp.float32) ** penalty

    def unsettled(search: Search) -> Array:
        # Log-probabilities only fall, and no hypothesis is longer than its limit.
        best = rank(search.live.total[:, 0], jnp.maximum(limits, 1))
        return jnp.any(best > search.done.total[:, -1])

    def advance(search: Search) -> Search:
        at = positions + jnp.minimum(search.step, jnp.maximum(limits, 1) - 1)
        at = jnp.broadcast_to(at[:, None], (count, beams))
        last = reshard(search.last.reshape(-1, 1), "batch", None)
        at = reshard(at.reshape(-1, 1), "batch", None)
        logits, cache = model.decode(params, last, at, search.cache)
        logits = reshard(logits[:, 0], None, None).reshape(count, beams, -1)
        logp = jax.nn.log_softmax(logits, axis=-1)
        size = search.step + 1
        ended = _extend(
            search.live,
            rank(search.live.total + logp[..., eos_id], size),
            jnp.arange(beams)[None],
            eos_id,
            -logp[..., eos_id],
            search.step,
        )
        vocabulary = jnp.arange(logp.shape[-1])
        barred = (vocabulary == eos_id) | (vocabulary >= vocab_size)
        totals = jnp.where(barred, -jnp.inf, search.live.total[..., None] + logp)
        best, where = lax.top_k(totals.reshape(count, -1), beams)
        parent, token = where // logp.shape[-1], (where % logp.shape[-1]).astype(jnp.int32)
        nats = -jnp.take_along_axis(logp.reshape(count, -1), where, axis=1)
        live = _extend(search.live, best, parent, token, nats, search.step)
        full = (size >= limits)[:, None]
        whole = live._replace(total=jnp.where(full, rank(live.total, size), -jnp.inf))
        live = live._replace(total=jnp.where(full, -jnp.inf, live.total))
        done = _best(search.done, ended, whole)
        rows = (jnp.arange(count)[:, None] * beams + parent).reshape(-1)
        return Search(size, cache.take(rows), token, live, done)

    done = lax.while_loop(unsettled, advance, search).done
    return Beams(*(reshard(array, *(None,) * array.ndim) for array in done))


def _extend(
    beams: Beams, total: Array, parent: Array, token: Array, nats: Array, step: Array
) -> Beams:
    """Each new hypothesis: its parent's tokens and one more, at place `step`."""
    parent = jnp.broadcast_to(parent, total.shape)[..., None]
    here = jnp.arange(beams.tokens.shape[-1]) == step
    token, nats = jnp.broadcast_to(token, total.shape)[..., None], nats[..., None]
    return Beams(
        total,
        jnp.where(here, token, jnp.take_along_axis(beams.tokens, parent, axis=1)),
        jnp.where(here, nats, jnp.take_along_axis(beams.nats, parent, axis=1)),
    )


def _best(*groups: Beams) -> Beams:
    """The best of several groups of hypotheses, as many as the first has, best first."""
    merged = Beams(*(jnp.concatenate(arrays, axis=1) for arrays in zip(*groups, strict=True)))
    total, where = lax.top_k(merged.total, groups[0].total.shape[1])
    where = where[..., None]
    return Beams(
        total,
        jnp.take_along_axis(merged.tokens, where, axis=1),
        jnp.take_along_axis(merged.nats, where, axis=1),
    )
