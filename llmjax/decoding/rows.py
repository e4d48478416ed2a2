"""Rows of prompts, and prefill: a cache of all their tokens but the last.

Lengths and numbers of rows are rounded up to powers of two, so that few programs are compiled.
Padding follows a row's tokens; nothing attends to it before it is overwritten.
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


class Request(NamedTuple):
    """A prompt to continue.

    Attributes:
      prompt: tokens, at least one (BOS for an empty text).
      limit: maximum tokens to generate, at least one.
      key_data: two numbers below 2^32, folded into the seed for the row's random keys.
    """

    prompt: Sequence[int]
    limit: int
    key_data: tuple[int, int] = (0, 0)


class DecodeState(NamedTuple):
    """The state between two decoding steps, on the devices.

    Attributes:
      cache: keys and values of all tokens but the last.
      tokens: int32 [B], each row's last token.
      positions: int32 [B], its position.
      remaining: int32 [B], tokens still to generate; 0 if the row is done.
      key_data: uint32 [B, 2], see Request.
      seen: bool [B, V], tokens so far, for the repetition penalty; None without it.
    """

    cache: Cache
    tokens: Array
    positions: Array
    remaining: Array
    key_data: Array
    seen: Array | None


def prefill(
    model: Model,
    params: Params,
    requests: Sequence[Request],
    *,
    bos_id: int,
    mesh: Mesh | None,
    remember: bool = False,
) -> DecodeState:
    """Fill the cache with the prompts, or of an encoder-decoder with the encoded prompts.

    A decoder continues its prompt; an encoder-decoder generates from BOS. The batch is padded to a
    power of two that the mesh divides, with rows that are done from the start.
    """
    padding = bucket(len(requests), 1 if mesh is None else axis_size(mesh, "batch")) - len(requests)
    requests = [*requests, *[Request([bos_id], 0)] * padding]
    encodes = model.config.is_encoder_decoder
    prompts = [[bos_id] if encodes else request.prompt for request in requests]
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    limits = np.array([request.limit for request in requests], np.int32)
    longest = int((lengths + limits).max()) - 1
    slots = max(longest, min(_slots(longest), model.config.max_length))
    if encodes:
        texts = [request.prompt for request in requests]
        sources = padded(texts, model.config.max_length)
        segments = padded([[1] * len(text) for text in texts], model.config.max_length)
        inputs = [place(array, mesh, "batch", None) for array in (sources, segments)]
        with use_mesh(mesh):
            cache = encode_prompts(model, params, *inputs, slots=slots)
    else:
        tokens = place(padded([prompt[:-1] for prompt in prompts], slots), mesh, "batch", None)
        rows = place((lengths + limits - 1).astype(np.int32), mesh, "batch")
        with use_mesh(mesh):
            counts = place(lengths - 1, mesh, "batch")
            cache = fill_cache(model, params, tokens, rows, counts, slots=slots)
    seen = _occurrences(prompts, model.config.vocab_size) if remember else None
    return DecodeState(
        cache=cache,
        tokens=place(np.array([prompt[-1] for prompt in prompts], np.int32), mesh, "batch"),
        positions=place(lengths - 1, mesh, "batch"),
        remaining=place(limits, mesh, "batch"),
        key_data=place(
            np.array([request.key_data for request in requests], np.uint32), mesh, "batch", None
        ),
        seen=None if seen is None else place(seen, mesh, "batch", None),
    )


def bucket(size: int, least: int = 16) -> int:
    """Round up to least, 2 least, 4 least, ...: few shapes, few programs."""
    while least < size:
        least *= 2
    return least


def _slots(size: int) -> int:
    """Round up to three significant bits: at most a quarter stays empty."""
    step = 1 << max(size.bit_length() - 3, 4)
    return -(-size // step) * step


def padded(rows: Sequence[Sequence[int]], most: int) -> np.ndarray:
    """Right-pad rows of tokens with zeros: int32 [rows, length], a bucketed length or `most`."""
    array = np.zeros((len(rows), min(bucket(max(map(len, rows))), most)), np.int32)
    for padded_row, row in zip(array, rows, strict=True):
        padded_row[: len(row)] = row
    return array


def _occurrences(rows: Sequence[Sequence[int]], vocab_size: int) -> np.ndarray:
    seen = np.zeros((len(rows), vocab_size), np.bool_)
    for seen_row, row in zip(seen, rows, strict=True):
        seen_row[list(row)] = True
    return seen


@partial(jax.jit, static_argnames=("model", "slots"))
def fill_cache(
    model: Model,
    params: Params,
    tokens: Array,
    text_lengths: Array | None = None,
    token_counts: Array | None = None,
    *,
    slots: int,
) -> Cache:
    """Build a decoder's cache of tokens, int32 [B, L], of texts that become this long, [B];
    None: as long as the cache. `token_counts`: [B], without padding; None: there is none."""
    return model.prefill(params, tokens, slots, text_lengths, token_counts)


@partial(jax.jit, static_argnames=("model", "slots"))
def encode_prompts(
    model: Model, params: Params, tokens: Array, segments: Array, *, slots: int
) -> Cache:
    """Encode prompts, int32 [B, L], and build the decoder's empty cache for them."""
    encoded = model.encode(params, tokens, segments)
    return model.init_cache(
        tokens.shape[0], slots, encoded=encoded, encoder_segments=segments, params=params
    )
