"""Writes tokens: one compiled step chooses each row's next, a few steps at each call of the device.

Each row has its own position, so that rows of any lengths go together.
"""

from collections.abc import Iterator, Sequence
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
from llmjax.decoding.rows import Row, State, start
from llmjax.decoding.sampling import Sampling, choose
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import per_device, reshard, use_mesh

STEPS_PER_CALL = 4  # enough to hide what a call costs, few enough for text to flow


class Written(NamedTuple):
    """What one call wrote.

    Attributes:
      tokens: int32 [rows, steps], -1 once a row is done.
      nats: float32 [rows, steps], under the model's own distribution, whatever the sampling.
    """

    tokens: np.ndarray
    nats: np.ndarray


class Rules(NamedTuple):
    """What decides the next token, beside its row.

    Attributes:
      sampling: the filters.
      seed: uint32.
      stop_ids: int32 [E]; each ends a row.
      vocab_size: int32; rows of the embedding from here on are padding, never chosen.
    """

    sampling: Sampling
    seed: ArrayLike
    stop_ids: ArrayLike
    vocab_size: ArrayLike


def generate_tokens(
    model: Model,
    params: Params,
    rows: Sequence[Row],
    config: DecodingConfig,
    *,
    tokenizer: Tokenizer,
    mesh: Mesh | None = None,
    stop_ids: Sequence[int] | None = None,
) -> Iterator[Written]:
    """Continues the rows until each has met its limit or an end; yields a few steps at a time.

    An end is one of `stop_ids`; None for the tokenizer's.

    The caller may stop before the end. What a row becomes does not depend on the rows beside it
    (except that a batch of another shape is another program, whose sums may round otherwise).
    """
    state = start(
        model,
        params,
        rows,
        bos_id=tokenizer.bos_id,
        mesh=mesh,
        remember=config.repetition_penalty is not None,
    )
    rules = Rules(
        sampling=sampling_of(config),
        seed=np.uint32(config.seed % 2**32),
        stop_ids=np.array(stop_ids or tokenizer.stop_ids, np.int32),
        vocab_size=np.int32(tokenizer.vocab_size),
    )
    pending = None
    for _ in range(-(-max(row.limit for row in rows) // STEPS_PER_CALL)):
        with use_mesh(mesh):
            state, running = _steps(model, params, state, rules)
        # The host reads a call's tokens while the next call is under way.
        if pending is not None:
            written = _read(pending, len(rows))
            yield written
            if (written.tokens[:, -1] < 0).all():
                return
        pending = running
    if pending is not None:
        yield _read(pending, len(rows))


def sampling_of(config: DecodingConfig) -> Sampling:
    """The config's filters as scalars; None where they are off."""

    def scalar(value: float | None, dtype: type) -> np.ndarray | None:
        return None if value is None else np.asarray(value, dtype)

    return Sampling(
        temperature=scalar(config.temperature or None, np.float32),
        top_k=scalar(config.top_k, np.int32),
        top_p=scalar(config.top_p, np.float32),
        min_p=scalar(config.min_p, np.float32),
        repetition_penalty=scalar(config.repetition_penalty, np.float32),
    )


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def _steps(
    model: Model, params: Params, state: State, rules: Rules
) -> tuple[State, tuple[Array, Array]]:
    """STEPS_PER_CALL steps; the tokens and nats, [steps, B], are whole on every process."""

    def step(state: State, _: None) -> tuple[State, tuple[Array, Array]]:
        return _step(model, params, state, rules)

    state, (tokens, nats) = lax.scan(step, state, length=STEPS_PER_CALL)
    return state, (reshard(tokens, None, None), reshard(nats, None, None))


def _step(
    model: Model, params: Params, state: State, rules: Rules
) -> tuple[State, tuple[Array, Array]]:
    logits, cache = model.decode(
        params, state.tokens[:, None], state.positions[:, None], state.cache
    )
    logits = reshard(logits[:, 0], "batch", None)
    vocabulary = jnp.arange(logits.shape[-1])
    allowed = jnp.where(vocabulary < rules.vocab_size, logits, -jnp.inf)
    chosen = _choose(allowed, state, rules)
    is_chosen = vocabulary == chosen[:, None]
    nats = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(is_chosen, logits, 0), axis=-1)
    writing = state.left > 0
    ended = jnp.any(chosen[:, None] == jnp.asarray(rules.stop_ids), axis=1)
    left = jnp.where(writing & ~ended, state.left - 1, 0)
    after = State(
        cache=cache,
        tokens=chosen,
        positions=state.positions + (left > 0),
        left=left,
        names=state.names,
        seen=None if state.seen is None else state.seen | is_chosen,
    )
    return after, (jnp.where(writing, chosen, -1), nats)


def _choose(logits: Array, state: State, rules: Rules) -> Array:
    """The next token of each row, int32 [B], from logits [B, V]; every device serves its own rows.

    Rows choose without looking at each other. Left to the compiler, keys that are split over a
    mesh meet rules of vmap that differ between versions of JAX.
    """
    scalars, structure = jax.tree.flatten((rules.sampling, rules.seed))

    def local(
        logits: Array, names: Array, positions: Array, seen: Array | None, *scalars: Array
    ) -> tuple[Array]:
        sampling, seed = jax.tree.unflatten(structure, scalars)
        keys = jax.vmap(_key, (None, 0, 0))(seed, names, positions)
        return (choose(logits, sampling, keys, seen),)

    row, rows = ("batch",), ("batch", None)
    run = per_device(local, (rows, rows, row, rows, *[()] * len(scalars)), (row,))
    return run(logits, state.names, state.positions, state.seen, *scalars)[0]


def _key(seed: ArrayLike, name: Array, position: Array) -> Array:
    key = jax.random.fold_in(jax.random.key(seed), name[0])
    return jax.random.fold_in(jax.random.fold_in(key, name[1]), position)


def _read(running: tuple[Array, Array], rows: int) -> Written:
    tokens, nats = (np.asarray(array).T[:rows] for array in running)
    return Written(tokens, nats)
