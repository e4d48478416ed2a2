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
from jax.typing import ArrayLike

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.config import DecodingConfig
from llmjax.decoding.rows import Row, bucket, start
from llmjax.model.cache import Cache
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import reshard, use_mesh


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
    """Between two steps: `step` tokens are written, `last` int32 [N, W] is the latest of each."""

    step: Array
    cache: Cache
    last: Array
    live: Beams
    done: Beams


class Task(NamedTuple):
    """What is searched for.

    Attributes:
      positions: int32 [N], where each prompt's last token stands.
      limits: int32 [N], how many tokens may follow; 0 in a row of padding.
      penalty: float32, the power of the length that log-probabilities are divided by.
      stop_ids: int32 [E]; each ends a hypothesis.
      vocab_size: int32; rows of the embedding from here on are padding.
    """

    positions: Array
    limits: Array
    penalty: ArrayLike
    stop_ids: Array
    vocab_size: ArrayLike

    def rank(self, total: Array, size: Array) -> Array:
        """Scores of log-probabilities of `size` tokens."""
        return total / size.astype(jnp.float32) ** self.penalty


def beam_search(
    model: Model,
    params: Params,
    rows: Sequence[Row],
    config: DecodingConfig,
    *,
    tokenizer: Tokenizer,
    mesh: Mesh | None = None,
    stop_ids: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """The best hypotheses of each row's prompt, best first: at most `config.beams` of them."""
    state = start(model, params, rows, bos_id=tokenizer.bos_id, mesh=mesh)
    task = Task(
        positions=state.positions,
        limits=state.left,
        penalty=np.float32(config.length_penalty),
        stop_ids=jnp.array(stop_ids or tokenizer.stop_ids, jnp.int32),
        vocab_size=np.int32(tokenizer.vocab_size),
    )
    length = bucket(max(row.limit for row in rows))
    with use_mesh(mesh):
        done = _search(
            model, params, task, state.cache, state.tokens, beams=config.beams, length=length
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
    task: Task,
    cache: Cache,
    tokens: Array,
    *,
    beams: int,
    length: int,
) -> Beams:
    """The best hypotheses; tokens are int32 [N], each prompt's last one, which `cache` lacks.

    All but the cache is whole on every device: it is small, and rows trade places at every step.
    """
    tokens = reshard(tokens, None)
    task = task._replace(positions=reshard(task.positions, None), limits=reshard(task.limits, None))
    shape = (tokens.shape[0], beams, length)
    none = Beams(jnp.full(shape[:2], -jnp.inf), jnp.full(shape, -1, jnp.int32), jnp.zeros(shape))
    search = Search(
        step=jnp.int32(0),
        cache=cache.take(jnp.repeat(jnp.arange(shape[0]), beams)),
        last=jnp.broadcast_to(tokens[:, None], shape[:2]),
        live=none._replace(total=none.total.at[:, 0].set(0.0)),
        done=none,
    )
    search = lax.while_loop(
        partial(_unsettled, task), partial(_advance, model, params, task), search
    )
    return Beams(*(reshard(array, *(None,) * array.ndim) for array in search.done))


def _unsettled(task: Task, search: Search) -> Array:
    """Whether an unfinished hypothesis can still come among the best."""
    # Log-probabilities only fall, and no hypothesis is longer than its limit.
    best = task.rank(search.live.total[:, 0], jnp.maximum(task.limits, 1))
    return jnp.any(best > search.done.total[:, -1])


def _advance(model: Model, params: Params, task: Task, search: Search) -> Search:
    """Writes one more token."""
    count, beams = search.last.shape
    logp, cache = _next(model, params, task, search)
    size = search.step + 1
    ends = logp[..., task.stop_ids]
    ended = _extend(
        search.live,
        task.rank(search.live.total[..., None] + ends, size).reshape(count, -1),
        jnp.repeat(jnp.arange(beams), ends.shape[-1])[None],
        jnp.tile(task.stop_ids, beams)[None],
        -ends.reshape(count, -1),
        search.step,
    )
    vocabulary = jnp.arange(logp.shape[-1])
    is_end = jnp.any(vocabulary[:, None] == task.stop_ids, axis=1)
    barred = is_end | (vocabulary >= task.vocab_size)
    totals = jnp.where(barred, -jnp.inf, search.live.total[..., None] + logp)
    best, where = lax.top_k(totals.reshape(count, -1), beams)
    parent, token = where // logp.shape[-1], (where % logp.shape[-1]).astype(jnp.int32)
    nats = -jnp.take_along_axis(logp.reshape(count, -1), where, axis=1)
    live = _extend(search.live, best, parent, token, nats, search.step)
    full = (size >= task.limits)[:, None]
    whole = live._replace(total=jnp.where(full, task.rank(live.total, size), -jnp.inf))
    live = live._replace(total=jnp.where(full, -jnp.inf, live.total))
    rows = (jnp.arange(count)[:, None] * beams + parent).reshape(-1)
    return Search(size, cache.take(rows), token, live, _best(search.done, ended, whole))


def _next(model: Model, params: Params, task: Task, search: Search) -> tuple[Array, Cache]:
    """Log-probabilities of what follows each live hypothesis, float32 [N, W, V]."""
    count, beams = search.last.shape
    # Rows that are full stand still until all are.
    at = task.positions + jnp.minimum(search.step, jnp.maximum(task.limits, 1) - 1)
    at = jnp.broadcast_to(at[:, None], (count, beams))
    last, at = (reshard(x.reshape(-1, 1), "batch", None) for x in (search.last, at))
    logits, cache = model.decode(params, last, at, search.cache)
    logits = reshard(logits[:, 0], None, None).reshape(count, beams, -1)
    return jax.nn.log_softmax(logits, axis=-1), cache


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
