"""Rows of tokens, and the state that they start from: a cache that holds all but their last token.

Lengths and numbers of rows are rounded up to powers of two, so that few programs are compiled.
Padding stands behind a row's own tokens, where nothing attends to it before it is overwritten.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from llmjax.model.cache import Cache
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import axis_size, place, use_mesh


class Row(NamedTuple):
    """A prompt to continue.

    Attributes:
      prompt: tokens, at least one (BOS where there is no text).
      limit: how many tokens to write, at least one.
      name: two numbers below 2^32; with the seed they decide the row's random keys.
    """

    prompt: Sequence[int]
    limit: int
    name: tuple[int, int] = (0, 0)


class State(NamedTuple):
    """Between two steps, on the device.

    Attributes:
      cache: keys and values of all tokens but the latest.
      tokens: int32 [B], each row's latest token.
      positions: int32 [B], where it stands.
      left: int32 [B], tokens still to write; 0 where the row is done.
      names: uint32 [B, 2], see Row.
      seen: bool [B, V], tokens so far, for the repetition penalty; None without it.
    """

    cache: Cache
    tokens: Array
    positions: Array
    left: Array
    names: Array
    seen: Array | None


def start(
    model: Model,
    params: Params,
    rows: Sequence[Row],
    *,
    bos_id: int,
    mesh: Mesh | None,
    remember: bool = False,
) -> State:
    """Fills the cache with the prompts, or where there is an encoder, with what it makes of them.

    A decoder continues its prompt; an encoder-decoder writes from BOS on. The batch is rounded
    up to a power of two that the mesh divides, with rows that are done from the start.
    """
    padding = bucket(len(rows), 1 if mesh is None else axis_size(mesh, "batch")) - len(rows)
    rows = [*rows, *[Row([bos_id], 0)] * padding]
    encodes = model.config.is_encoder_decoder
    heads = [[bos_id] if encodes else row.prompt for row in rows]
    lengths = np.array([len(head) for head in heads], np.int32)
    limits = np.array([row.limit for row in rows], np.int32)
    longest = int((lengths + limits).max()) - 1
    slots = max(longest, min(_slots(longest), model.config.max_length))
    if encodes:
        sources = padded([row.prompt for row in rows], model.config.max_length)
        segments = padded([[1] * len(row.prompt) for row in rows], model.config.max_length)
        texts = [place(array, mesh, "batch", None) for array in (sources, segments)]
        with use_mesh(mesh):
            cache = _encode(model, params, *texts, slots=slots)
    else:
        text = place(padded([head[:-1] for head in heads], slots), mesh, "batch", None)
        with use_mesh(mesh):
            cache = _prefill(model, params, text, slots=slots)
    seen = _occurrences(heads, model.config.vocab_size) if remember else None
    return State(
        cache=cache,
        tokens=place(np.array([head[-1] for head in heads], np.int32), mesh, "batch"),
        positions=place(lengths - 1, mesh, "batch"),
        left=place(limits, mesh, "batch"),
        names=place(np.array([row.name for row in rows], np.uint32), mesh, "batch", None),
        seen=None if seen is None else place(seen, mesh, "batch", None),
    )


def bucket(size: int, least: int = 16) -> int:
    """The first of least, 2 least, 4 least, ... that is no smaller: few shapes, few programs."""
    while least < size:
        least *= 2
    return least


def _slots(size: int) -> int:
    """The first size no smaller with three significant bits: at most a quarter stays empty."""
    step = 1 << max(size.bit_length() - 3, 4)
    return -(-size // step) * step


def padded(rows: Sequence[Sequence[int]], most: int) -> np.ndarray:
    """Rows of tokens as int32 [rows, length], zeros at the right; a bucketed length, or `most`."""
    array = np.zeros((len(rows), min(bucket(max(map(len, rows))), most)), np.int32)
    for line, row in zip(array, rows, strict=True):
        line[: len(row)] = row
    return array


def _occurrences(rows: Sequence[Sequence[int]], vocab_size: int) -> np.ndarray:
    seen = np.zeros((len(rows), vocab_size), np.bool_)
    for line, row in zip(seen, rows, strict=True):
        line[list(row)] = True
    return seen


@partial(jax.jit, static_argnames=("model", "slots"))
def _prefill(model: Model, params: Params, tokens: Array, *, slots: int) -> Cache:
    return model.prefill(params, tokens, slots)


@partial(jax.jit, static_argnames=("model", "slots"))
def _encode(model: Model, params: Params, tokens: Array, segments: Array, *, slots: int) -> Cache:
    encoded = model.encode(params, tokens, segments)
    return model.init_cache(
        tokens.shape[0], slots, encoded=encoded, encoder_segments=segments, params=params
    )
