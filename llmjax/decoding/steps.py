"""Token generation: a compiled function that advances all rows by a few steps per device call.

Rows have separate positions, so prompts of any lengths share a batch.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.config import DecodingConfig
from llmjax.decoding.rows import DecodeState, Request, prefill
from llmjax.decoding.sampling import Sampling, choose
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.compilation import DECODING
from llmjax.parallel.mesh import per_device, platform, reshard, use_mesh

STEPS_PER_CALL = 4  # amortizes the call overhead, and still streams smoothly


class NewTokens(NamedTuple):
    """The tokens of one device call.

    Attributes:
      tokens: int32 [rows, steps], -1 once a row is done.
      nats: float32 [rows, steps], under the model's distribution, before sampling filters.
    """

    tokens: np.ndarray
    nats: np.ndarray


class SamplingInputs(NamedTuple):
    """What determines the next token besides the row.

    Attributes:
      sampling: the filters.
      seed: uint32.
      stop_ids: int32 [E]; each ends a row.
      vocab_size: int32; ids from here on are padding of the embedding, never sampled.
    """

    sampling: Sampling
    seed: ArrayLike
    stop_ids: ArrayLike
    vocab_size: ArrayLike


def generate_tokens(
    model: Model,
    params: Params,
    requests: Sequence[Request],
    config: DecodingConfig,
    *,
    tokenizer: Tokenizer,
    mesh: Mesh | None = None,
    stop_ids: Sequence[int] | None = None,
) -> Iterator[NewTokens]:
    """Continue prompts until their limits or stop tokens; yields a few steps at a time.

    A row ends at one of `stop_ids`; None for the tokenizer's. The caller may stop early. A row does
    not depend on the other rows, except that another batch shape is another program, which may
    round differently.
    """
    state = prefill(
        model,
        params,
        requests,
        bos_id=tokenizer.bos_id,
        mesh=mesh,
        remember=config.repetition_penalty is not None,
    )
    inputs = SamplingInputs(
        sampling=sampling_of(config),
        seed=np.uint32(config.seed % 2**32),
        stop_ids=np.array(stop_ids or tokenizer.stop_ids, np.int32),
        vocab_size=np.int32(tokenizer.vocab_size),
    )
    pending = None
    for _ in range(-(-max(request.limit for request in requests) // STEPS_PER_CALL)):
        with use_mesh(mesh):
            state, running = decode_program(platform())(model, params, state, inputs)
        # The host reads a call's tokens while the next call runs.
        if pending is not None:
            new_tokens = _read(pending, len(requests))
            yield new_tokens
            if (new_tokens.tokens[:, -1] < 0).all():
                return
        pending = running
    if pending is not None:
        yield _read(pending, len(requests))


def sampling_of(config: DecodingConfig) -> Sampling:
    """Convert the config's filters to scalars; None if off."""

    def scalar(value: float | None, dtype: type) -> np.ndarray | None:
        return None if value is None else np.asarray(value, dtype)

    return Sampling(
        temperature=scalar(config.temperature or None, np.float32),
        top_k=scalar(config.top_k, np.int32),
        top_p=scalar(config.top_p, np.float32),
        min_p=scalar(config.min_p, np.float32),
        repetition_penalty=scalar(config.repetition_penalty, np.float32),
    )


@functools.cache
def decode_program(platform: str) -> Any:
    """`decode_steps`, compiled for "cpu", "gpu" or "tpu"; the state is donated."""
    options = DECODING.get(platform)
    return jax.jit(
        decode_steps,
        static_argnames="model",
        donate_argnames="state",
        compiler_options=None if options is None else dict(options),
    )


def decode_steps(
    model: Model, params: Params, state: DecodeState, inputs: SamplingInputs
) -> tuple[DecodeState, tuple[Array, Array]]:
    """Run STEPS_PER_CALL steps; tokens and nats, [steps, B], are replicated on every process."""

    def step(state: DecodeState, _: None) -> tuple[DecodeState, tuple[Array, Array]]:
        return _step(model, params, state, inputs)

    state, (tokens, nats) = lax.scan(step, state, length=STEPS_PER_CALL)
    return state, (reshard(tokens, None, None), reshard(nats, None, None))


def _step(
    model: Model, params: Params, state: DecodeState, inputs: SamplingInputs
) -> tuple[DecodeState, tuple[Array, Array]]:
    logits, cache = model.decode(
        params, state.tokens[:, None], state.positions[:, None], state.cache
    )
    logits = reshard(logits[:, 0], "batch", None)
    vocabulary = jnp.arange(logits.shape[-1])
    allowed = jnp.where(vocabulary < inputs.vocab_size, logits, -jnp.inf)
    tokens = _choose(allowed, state, inputs)
    is_token = vocabulary == tokens[:, None]
    nats = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(is_token, logits, 0), axis=-1)
    active = state.remaining > 0
    ended = jnp.any(tokens[:, None] == jnp.asarray(inputs.stop_ids), axis=1)
    remaining = jnp.where(active & ~ended, state.remaining - 1, 0)
    new_state = DecodeState(
        cache=cache,
        tokens=tokens,
        positions=state.positions + (remaining > 0),
        remaining=remaining,
        key_data=state.key_data,
        seen=None if state.seen is None else state.seen | is_token,
    )
    return new_state, (jnp.where(active, tokens, -1), nats)


def _choose(logits: Array, state: DecodeState, inputs: SamplingInputs) -> Array:
    """Choose the next token of each row, int32 [B], from logits [B, V], locally on each device.

    Rows are independent. Without `per_device`, sharded keys meet vmap rules that differ between
    versions of JAX.
    """
    scalars, structure = jax.tree.flatten((inputs.sampling, inputs.seed))

    def local(
        logits: Array, key_data: Array, positions: Array, seen: Array | None, *scalars: Array
    ) -> tuple[Array]:
        sampling, seed = jax.tree.unflatten(structure, scalars)
        keys = jax.vmap(row_key, (None, 0, 0))(seed, key_data, positions)
        return (choose(logits, sampling, keys, seen),)

    row, rows = ("batch",), ("batch", None)
    run = per_device(local, (rows, rows, row, rows, *[()] * len(scalars)), (row,))
    return run(logits, state.key_data, state.positions, state.seen, *scalars)[0]


def row_key(seed: ArrayLike, key_data: Array, position: Array) -> Array:
    """The key of a row's token after `position`; `key_data` as in Request, [2]."""
    key = jax.random.fold_in(jax.random.key(seed), key_data[0])
    return jax.random.fold_in(jax.random.fold_in(key, key_data[1]), position)


def _read(running: tuple[Array, Array], rows: int) -> NewTokens:
    tokens, nats = (np.asarray(array).T[:rows] for array in running)
    return NewTokens(tokens, nats)
