"""Beam search, in one device call.

Each prompt keeps the `beams` most likely unfinished hypotheses and the `beams` best finished ones
(ended by EOS or at maximum length). They are ranked by log-probability / tokens ** length_penalty,
EOS included. The search ends when no unfinished hypothesis can still reach the best.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.config import DecodingConfig
from llmjax.decoding.rows import Request, bucket, prefill
from llmjax.model.cache import Cache
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import reshard, use_mesh


class Hypothesis(NamedTuple):
    """A finished continuation: its tokens (with EOS, if reached) and their nats."""

    tokens: list[int]
    nats: list[float]
    score: float


class Beams(NamedTuple):
    """Hypotheses of N prompts, W each.

    Attributes:
      total: float32 [N, W], log-probability (unfinished) or score (finished); -inf if empty.
      tokens: int32 [N, W, M], -1 after the end.
      nats: float32 [N, W, M].
    """

    total: Array
    tokens: Array
    nats: Array


class SearchState(NamedTuple):
    """The state after `step` tokens; `last` int32 [N, W] is each hypothesis's last token."""

    step: Array
    cache: Cache
    last: Array
    live: Beams
    done: Beams


class SearchInputs(NamedTuple):
    """The constants of a search.

    Attributes:
      positions: int32 [N], position of each prompt's last token.
      limits: int32 [N], maximum new tokens; 0 for padding rows.
      penalty: float32, the exponent of the length that divides log-probabilities.
      stop_ids: int32 [E]; each ends a hypothesis.
      vocab_size: int32; ids from here on are padding of the embedding.
    """

    positions: Array
    limits: Array
    penalty: ArrayLike
    stop_ids: Array
    vocab_size: ArrayLike

    def rank(self, total: Array, size: Array) -> Array:
        """Score log-probabilities of `size` tokens."""
        return total / size.astype(jnp.float32) ** self.penalty


def beam_search(
    model: Model,
    params: Params,
    requests: Sequence[Request],
    config: DecodingConfig,
    *,
    tokenizer: Tokenizer,
    mesh: Mesh | None = None,
    stop_ids: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """Return at most `config.beams` hypotheses of each prompt, best first."""
    state = prefill(model, params, requests, bos_id=tokenizer.bos_id, mesh=mesh)
    inputs = SearchInputs(
        positions=state.positions,
        limits=state.remaining,
        penalty=np.float32(config.length_penalty),
        stop_ids=jnp.array(stop_ids or tokenizer.stop_ids, jnp.int32),
        vocab_size=np.int32(tokenizer.vocab_size),
    )
    length = bucket(max(request.limit for request in requests))
    with use_mesh(mesh):
        done = search(
            model, params, inputs, state.cache, state.tokens, beams=config.beams, length=length
        )
    arrays = [np.asarray(array) for array in done]
    return [_hypotheses(*(array[number] for array in arrays)) for number in range(len(requests))]


def _hypotheses(totals: np.ndarray, texts: np.ndarray, costs: np.ndarray) -> list[Hypothesis]:
    hypotheses = []
    for total, tokens, nats in zip(totals, texts, costs, strict=True):
        size = int((tokens >= 0).sum())
        if np.isfinite(total):
            hypotheses.append(
                Hypothesis(tokens[:size].tolist(), nats[:size].tolist(), float(total))
            )
    return hypotheses


@partial(jax.jit, static_argnames=("model", "beams", "length"))
def search(
    model: Model,
    params: Params,
    inputs: SearchInputs,
    cache: Cache,
    tokens: Array,
    *,
    beams: int,
    length: int,
) -> Beams:
    """Search from each prompt's last token, int32 [N], which `cache` lacks.

    All but the cache is replicated: it is small, and hypotheses are reordered at every step.
    """
    tokens = reshard(tokens, None)
    inputs = inputs._replace(
        positions=reshard(inputs.positions, None), limits=reshard(inputs.limits, None)
    )
    shape = (tokens.shape[0], beams, length)
    empty = Beams(jnp.full(shape[:2], -jnp.inf), jnp.full(shape, -1, jnp.int32), jnp.zeros(shape))
    state = SearchState(
        step=jnp.int32(0),
        cache=cache.take(jnp.repeat(jnp.arange(shape[0]), beams)),
        last=jnp.broadcast_to(tokens[:, None], shape[:2]),
        live=empty._replace(total=empty.total.at[:, 0].set(0.0)),
        done=empty,
    )
    state = lax.while_loop(
        partial(_is_open, inputs), partial(_advance, model, params, inputs), state
    )
    return Beams(*(reshard(array, *(None,) * array.ndim) for array in state.done))


def _is_open(inputs: SearchInputs, search: SearchState) -> Array:
    """Whether an unfinished hypothesis can still reach the best."""
    # Log-probabilities only decrease, and no hypothesis exceeds its limit.
    best = inputs.rank(search.live.total[:, 0], jnp.maximum(inputs.limits, 1))
    return jnp.any(best > search.done.total[:, -1])


def _advance(
    model: Model, params: Params, inputs: SearchInputs, search: SearchState
) -> SearchState:
    """Extend all hypotheses by one token."""
    count, beams = search.last.shape
    logp, cache = _next(model, params, inputs, search)
    size = search.step + 1
    ends = logp[..., inputs.stop_ids]
    ended = _extend(
        search.live,
        inputs.rank(search.live.total[..., None] + ends, size).reshape(count, -1),
        jnp.repeat(jnp.arange(beams), ends.shape[-1])[None],
        jnp.tile(inputs.stop_ids, beams)[None],
        -ends.reshape(count, -1),
        search.step,
    )
    vocabulary = jnp.arange(logp.shape[-1])
    is_end = jnp.any(vocabulary[:, None] == inputs.stop_ids, axis=1)
    excluded = is_end | (vocabulary >= inputs.vocab_size)
    totals = jnp.where(excluded, -jnp.inf, search.live.total[..., None] + logp)
    best, index = lax.top_k(totals.reshape(count, -1), beams)
    parent, token = index // logp.shape[-1], (index % logp.shape[-1]).astype(jnp.int32)
    nats = -jnp.take_along_axis(logp.reshape(count, -1), index, axis=1)
    live = _extend(search.live, best, parent, token, nats, search.step)
    full = (size >= inputs.limits)[:, None]
    complete = live._replace(total=jnp.where(full, inputs.rank(live.total, size), -jnp.inf))
    live = live._replace(total=jnp.where(full, -jnp.inf, live.total))
    rows = (jnp.arange(count)[:, None] * beams + parent).reshape(-1)
    return SearchState(size, cache.take(rows), token, live, _best(search.done, ended, complete))


def _next(
    model: Model, params: Params, inputs: SearchInputs, search: SearchState
) -> tuple[Array, Cache]:
    """Compute the next-token log-probabilities of each live hypothesis, float32 [N, W, V]."""
    count, beams = search.last.shape
    # Full rows keep their position until all are full.
    positions = inputs.positions + jnp.minimum(search.step, jnp.maximum(inputs.limits, 1) - 1)
    positions = jnp.broadcast_to(positions[:, None], (count, beams))
    last, positions = (reshard(x.reshape(-1, 1), "batch", None) for x in (search.last, positions))
    logits, cache = model.decode(params, last, positions, search.cache)
    logits = reshard(logits[:, 0], None, None).reshape(count, beams, -1)
    return jax.nn.log_softmax(logits, axis=-1), cache


def _extend(
    beams: Beams, total: Array, parent: Array, token: Array, nats: Array, step: Array
) -> Beams:
    """Build new hypotheses: the parent's tokens and one more, at index `step`."""
    parent = jnp.broadcast_to(parent, total.shape)[..., None]
    is_new = jnp.arange(beams.tokens.shape[-1]) == step
    token, nats = jnp.broadcast_to(token, total.shape)[..., None], nats[..., None]
    return Beams(
        total,
        jnp.where(is_new, token, jnp.take_along_axis(beams.tokens, parent, axis=1)),
        jnp.where(is_new, nats, jnp.take_along_axis(beams.nats, parent, axis=1)),
    )


def _best(*groups: Beams) -> Beams:
    """Return the best hypotheses of several groups, as many as the first has, best first."""
    merged = Beams(*(jnp.concatenate(arrays, axis=1) for arrays in zip(*groups, strict=True)))
    total, index = lax.top_k(merged.total, groups[0].total.shape[1])
    index = index[..., None]
    return Beams(
        total,
        jnp.take_along_axis(merged.tokens, index, axis=1),
        jnp.take_along_axis(merged.nats, index, axis=1),
    )
