"""What the host sends to the devices before each call: the rows of the batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array
from jax.sharding import Mesh

from llmjax.decoding.rows import bucket
from llmjax.engine.programs import Rows
from llmjax.engine.requests import Running
from llmjax.engine.sampling import RowSampling
from llmjax.parallel.mesh import place


def rows_of(running: Sequence[Running], count: int, vocab_size: int, mesh: Mesh | None) -> Rows:
    """The rows of a batch of `count`, of which these are used; `vocab_size` is the embedding's."""
    ends = bucket(max(len(row.request.ends) for row in running), 4)
    state = _columns(count, tokens=(0, np.int32), positions=(0, np.int32))
    state |= _columns(count, remaining=(0, np.int32), prompt_lengths=(1, np.int32))
    state["stop_ids"] = np.full((count, ends), -1, np.int32)
    sampling = _columns(
        count,
        temperature=(0, np.float32),
        top_k=(vocab_size, np.int32),
        top_p=(1, np.float32),
        min_p=(0, np.float32),
        repetition=(1, np.float32),
        presence=(0, np.float32),
        frequency=(0, np.float32),
        seed=(0, np.uint32),
        wants_top=(0, np.bool_),
    )
    sampling["key_data"] = np.zeros((count, 2), np.uint32)
    if any(row.request.matcher for row in running):
        sampling["allowed"] = np.ones((count, vocab_size), np.bool_)
    for row in running:
        state["stop_ids"][row.row, : len(row.request.ends)] = row.request.ends
        _set(state, row.row, _state(row))
        _set(sampling, row.row, _sampling(row))
        _set_allowed(sampling, row)

    def placed(arrays: dict[str, np.ndarray]) -> dict[str, Array]:
        return {
            name: place(array, mesh, "batch", *[None] * (array.ndim - 1))
            for name, array in arrays.items()
        }

    return Rows(**placed(state), sampling=RowSampling(**placed(sampling)))


def _columns(count: int, **values: tuple[float, type]) -> dict[str, np.ndarray]:
    return {name: np.full(count, value, dtype) for name, (value, dtype) in values.items()}


def _set(arrays: dict[str, np.ndarray], row: int, values: dict[str, Any]) -> None:
    """Set the values that are not None."""
    for name, value in values.items():
        if value is not None:
            arrays[name][row] = value


def _state(running: Running) -> dict[str, Any]:
    return {
        "tokens": running.last,
        "positions": running.position,
        "remaining": running.remaining,
        "prompt_lengths": len(running.prompt),
    }


def _sampling(running: Running) -> dict[str, Any]:
    options, decoding = running.request.options, running.request.options.decoding
    return {
        "temperature": decoding.temperature,
        "top_k": decoding.top_k,
        "top_p": decoding.top_p,
        "min_p": decoding.min_p,
        "repetition": decoding.repetition_penalty,
        "presence": options.presence_penalty,
        "frequency": options.frequency_penalty,
        "seed": decoding.seed % 2**32,
        "key_data": running.request.job.request.key_data,
        "wants_top": options.top_logprobs > 0,
    }


def _set_allowed(sampling: dict[str, np.ndarray], running: Running) -> None:
    matcher = running.request.matcher
    if matcher is not None:
        tokens = matcher.allowed(running.request.ends)
        row = sampling["allowed"][running.row]
        row[:] = False
        row[: len(tokens)] = tokens
