"""How likely continuations are: what multiple choice and evaluation harnesses ask a model.

A decoder's inputs are the tokens of prefix and continuation but the last; short ones share a row
as segments of their own. An encoder-decoder's encoder reads the prefix, its decoder starts from
BOS. Logits are computed for the continuations' tokens alone. Continuations that differ only in
their last token, such as the choices A, B, C and D, are read once.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.decoding.rows import bucket
from llmjax.errors import UserError
from llmjax.losses.token_loss import nll_at
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import place, reshard, rounded_up, use_mesh
from llmjax.scoring.windows import Batch, Window, pack

Pair = tuple[Sequence[int], Sequence[int]]


class Likelihood(NamedTuple):
    """The likelihood of a continuation.

    Attributes:
      total: its log-likelihood, the sum over its tokens, in nats.
      greedy: whether each of its tokens is the likeliest one where it stands.
    """

    total: float
    greedy: bool


class _Reading(NamedTuple):
    """What the model reads for some continuations of one prefix.

    Attributes:
      source: what an encoder reads; empty where there is none.
      inputs: what the decoder reads.
      tails: the continuations; the decoder's last inputs but one token are those of each.
    """

    source: tuple[int, ...]
    inputs: tuple[int, ...]
    tails: list[Sequence[int]]


class _Target(NamedTuple):
    """A continuation in a batch: its row, the place of its first token, its tokens."""

    row: int
    start: int
    tokens: Sequence[int]


_LaidOut = Iterator[tuple[Batch, list[_Target]]]


class ContinuationBatch(NamedTuple):
    """Rows for the model, and where in them the continuations lie.

    Attributes:
      arrays: as the model takes them, [rows, length] each.
      places: int32 [rows, K], where in its row each token of a continuation is predicted.
      targets: int32 [rows, K], these tokens.
      slices: of each continuation, its row and its part of K.
    """

    arrays: Batch
    places: np.ndarray
    targets: np.ndarray
    slices: list[tuple[int, slice]]


def score_continuations(
    model: Model,
    params: Params,
    pairs: Sequence[Pair],
    *,
    bos_id: int,
    batch_size: int = 16,
    mesh: Mesh | None = None,
) -> Iterator[Likelihood]:
    """The likelihood of each continuation, in order, as the batches come in.

    Where a pair is longer than the model's context, the first tokens of the prefix are left out.

    Args:
      model: one with a decoder.
      params: its parameters.
      pairs: (prefix, continuation): tokens as the model reads them, at least one each.
      bos_id: what the decoder of an encoder-decoder starts from.
      batch_size: rows at once, rounded up to what the mesh divides.
      mesh: where params live; None for one device.

    Raises:
      UserError: before anything is computed: the model has no decoder, a prefix or a continuation
        is empty, or a continuation is longer than the context.
    """
    if not model.config.num_decoder_layers:
        raise UserError("this model", "has no decoder", "only one that has rates continuations")
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    _check(pairs, model.config.max_length)
    batches = continuation_batches(model, pairs, bos_id=bos_id, batch_size=batch_size, mesh=mesh)
    return _scored(model, params, batches, mesh)


def _check(pairs: Sequence[Pair], limit: int) -> None:
    for number, (prefix, tail) in enumerate(pairs, 1):
        name = f"continuation {number}"
        if not len(prefix) or not len(tail):
            raise UserError(name, "has no tokens, or no token before it")
        if len(tail) > limit:
            raise UserError(name, f"has {len(tail)} tokens, the model's context is {limit}")


def _readings(model: Model, pairs: Sequence[Pair], bos_id: int) -> Iterator[_Reading]:
    """What is to be read; neighbours of the same inputs become one."""
    limit, last = model.config.max_length, None
    for prefix, tail in pairs:
        if model.config.is_encoder_decoder:
            source, whole = tuple(prefix[-limit:]), (bos_id, *tail)
        else:
            source, whole = (), (*prefix, *tail)
        inputs = tuple(whole[:-1][-limit:])
        if last is not None and (last.source, last.inputs) == (source, inputs):
            last.tails.append(tail)
            continue
        if last is not None:
            yield last
        last = _Reading(source, inputs, [tail])
    if last is not None:
        yield last


def continuation_batches(
    model: Model,
    pairs: Sequence[Pair],
    *,
    bos_id: int,
    batch_size: int = 16,
    mesh: Mesh | None = None,
) -> Iterator[ContinuationBatch]:
    """What `score_continuations` reads, in order, in few shapes: pure NumPy."""
    readings = list(_readings(model, pairs, bos_id))
    if not readings:
        return
    longest = bucket(max(len(reading.inputs) for reading in readings))
    length = rounded_up(longest, mesh, "residual")
    rows = rounded_up(min(batch_size, bucket(len(readings), 1)), mesh, "batch")
    if model.config.is_encoder_decoder:
        longest = bucket(max(len(reading.source) for reading in readings))
        batches = _paired(readings, rows, length, rounded_up(longest, mesh, "residual"))
    else:
        batches = _packed(readings, rows, length)
    for arrays, targets in batches:
        yield _with_targets(arrays, targets, rows, mesh)


def _scored(
    model: Model, params: Params, batches: Iterable[ContinuationBatch], mesh: Mesh | None
) -> Iterator[Likelihood]:
    """A batch is read only when the next one is under way."""
    pending: tuple[tuple[jax.Array, jax.Array], list[tuple[int, slice]]] | None = None
    for batch in batches:
        arrays = {name: place(array, mesh, "batch", None) for name, array in batch.arrays.items()}
        asked = [place(array, mesh, "batch", None) for array in (batch.places, batch.targets)]
        with use_mesh(mesh):
            running = _target_nats(model, params, arrays, *asked), batch.slices
        if pending is not None:
            yield from _read(*pending)
        pending = running
    if pending is not None:
        yield from _read(*pending)


def _packed(readings: Iterable[_Reading], rows: int, length: int) -> _LaidOut:
    """Rows of a decoder: several readings in each, in order."""
    left = iter(list(readings))
    streams = (Window(np.array([*r.inputs, 0], np.int32), 0) for r in readings)
    for batch, slots in pack(streams, rows, length):
        targets = []
        for slot in slots:
            end = slot.start + len(slot.window)
            targets += [_Target(slot.row, end - len(tail), tail) for tail in next(left).tails]
        kept = ("inputs", "segments", "positions")
        yield {name: batch[name] for name in kept}, targets


def _paired(readings: Sequence[_Reading], rows: int, length: int, source_length: int) -> _LaidOut:
    """Rows of an encoder-decoder, one reading in each: of `source_length` tokens for the
    encoder, of `length` for the decoder."""
    for first in range(0, len(readings), rows):
        group = readings[first : first + rows]
        sources = [reading.source for reading in group]
        batch = {
            "inputs": _rows([reading.inputs for reading in group], rows, length),
            "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
            "encoder_tokens": _rows(sources, rows, source_length),
            "encoder_segments": _rows([[1] * len(row) for row in sources], rows, source_length),
            "encoder_positions": np.tile(np.arange(source_length, dtype=np.int32), (rows, 1)),
        }
        targets = [
            _Target(row, len(reading.inputs) - len(tail), tail)
            for row, reading in enumerate(group)
            for tail in reading.tails
        ]
        yield batch, targets


def _rows(lists: Sequence[Sequence[int]], rows: int, length: int) -> np.ndarray:
    """int32 [rows, length], zeros behind each list and below them."""
    array = np.zeros((rows, length), np.int32)
    for line, values in zip(array, lists, strict=False):
        line[: len(values)] = values
    return array


def _with_targets(
    arrays: Batch, asked: Sequence[_Target], rows: int, mesh: Mesh | None
) -> ContinuationBatch:
    """The batch with the continuations' places and tokens side by side in each row."""
    filled, slices = [0] * rows, []
    for target in asked:
        size = len(target.tokens)
        slices.append((target.row, slice(filled[target.row], filled[target.row] + size)))
        filled[target.row] += size
    width = rounded_up(bucket(max(filled)), mesh, "length")
    places, targets = np.zeros((2, rows, width), np.int32)
    for target, where in zip(asked, slices, strict=True):
        places[where] = np.arange(target.start, target.start + len(target.tokens))
        targets[where] = target.tokens
    return ContinuationBatch(arrays, places, targets, slices)


def _read(
    results: tuple[jax.Array, jax.Array], slices: Sequence[tuple[int, slice]]
) -> Iterator[Likelihood]:
    nats, correct = np.asarray(results[0], np.float64), np.asarray(results[1])
    return (Likelihood(-float(nats[at].sum()), bool(correct[at].all())) for at in slices)


@partial(jax.jit, static_argnames="model")
def _target_nats(
    model: Model,
    params: Params,
    batch: dict[str, jax.Array],
    places: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    nats, correct = nll_at(model, params, batch, places, targets)
    return reshard(nats, None, None), reshard(correct, None, None)
