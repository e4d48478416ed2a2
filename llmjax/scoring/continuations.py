"""Log-likelihoods of continuations, for multiple choice and evaluation harnesses.

A decoder reads the tokens of prefix and continuation but the last; short inputs share a row as
separate segments. An encoder-decoder's encoder reads the prefix, its decoder starts from BOS.
Logits are computed only at the continuations' tokens. Continuations that differ only in their last
token, such as the choices A, B, C and D, are read once.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.decoding.rows import bucket
from llmjax.errors import UserError
from llmjax.interruption import between_batches
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
      greedy: whether each of its tokens is the most likely one at its position.
    """

    total: float
    greedy: bool


class _Input(NamedTuple):
    """Model inputs shared by some continuations of one prefix.

    Attributes:
      source: the encoder's input; empty without an encoder.
      tokens: the decoder's input.
      continuations: they differ at most in the last token, which is not part of `tokens`.
    """

    source: tuple[int, ...]
    tokens: tuple[int, ...]
    continuations: list[Sequence[int]]


class _Target(NamedTuple):
    """A continuation in a batch: its row, the position of its first token, its tokens."""

    row: int
    start: int
    tokens: Sequence[int]


_Layouts = Iterator[tuple[Batch, list[_Target]]]


class ContinuationBatch(NamedTuple):
    """Rows for the model, and the positions of the continuations in them.

    Attributes:
      arrays: model inputs, [rows, length] each.
      positions: int32 [rows, K], position in its row that predicts each continuation token.
      targets: int32 [rows, K], the continuation tokens.
      slices: for each continuation, its row and its slice of K.
    """

    arrays: Batch
    positions: np.ndarray
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
    """Yield the likelihood of each continuation, in order, batch by batch.

    If a pair exceeds the model's context, the prefix is truncated on the left.

    Args:
      model: one with a decoder.
      params: its parameters.
      pairs: (prefix, continuation) tokens, at least one each; no special tokens are added.
      bos_id: the first decoder input of an encoder-decoder.
      batch_size: rows per batch, rounded up to a multiple that the mesh divides.
      mesh: of the parameters; None for one device.

    Raises:
      UserError: before any computation: the model has no decoder, a prefix or a continuation is
        empty, or a continuation exceeds the context.
    """
    if not model.config.num_decoder_layers:
        raise UserError("this model", "has no decoder", "scoring continuations needs a decoder")
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    _check(pairs, model.config.max_length)
    batches = continuation_batches(model, pairs, bos_id=bos_id, batch_size=batch_size, mesh=mesh)
    return score_batches(model, params, batches, mesh)


def _check(pairs: Sequence[Pair], limit: int) -> None:
    for number, (prefix, continuation) in enumerate(pairs, 1):
        name = f"continuation {number}"
        if not len(prefix) or not len(continuation):
            raise UserError(name, "has no tokens, or no token before it")
        size = len(continuation)
        if size > limit:
            raise UserError(name, f"has {size} tokens, the model's context is {limit}")


def _inputs(model: Model, pairs: Sequence[Pair], bos_id: int) -> Iterator[_Input]:
    """Yield model inputs; consecutive pairs with equal inputs share one."""
    limit, last = model.config.max_length, None
    for prefix, continuation in pairs:
        if model.config.is_encoder_decoder:
            source, sequence = tuple(prefix[-limit:]), (bos_id, *continuation)
        else:
            source, sequence = (), (*prefix, *continuation)
        tokens = tuple(sequence[:-1][-limit:])
        if last is not None and (last.source, last.tokens) == (source, tokens):
            last.continuations.append(continuation)
            continue
        if last is not None:
            yield last
        last = _Input(source, tokens, [continuation])
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
    """Yield the batches of `score_continuations`, in order, in few shapes: pure NumPy."""
    inputs = list(_inputs(model, pairs, bos_id))
    if not inputs:
        return
    longest = bucket(max(len(item.tokens) for item in inputs))
    length = rounded_up(longest, mesh, "residual")
    rows = rounded_up(min(batch_size, bucket(len(inputs), 1)), mesh, "batch")
    if model.config.is_encoder_decoder:
        longest = bucket(max(len(item.source) for item in inputs))
        batches = _paired(inputs, rows, length, rounded_up(longest, mesh, "residual"))
    else:
        batches = _packed(inputs, rows, length)
    for arrays, targets in batches:
        yield _with_targets(arrays, targets, rows, mesh)


def score_batches(
    model: Model, params: Params, batches: Iterable[ContinuationBatch], mesh: Mesh | None
) -> Iterator[Likelihood]:
    """Yield the likelihood of each continuation; results are read while the next batch runs."""
    pending: tuple[tuple[jax.Array, jax.Array], list[tuple[int, slice]]] | None = None
    for batch in batches:
        between_batches()
        arrays = {name: place(array, mesh, "batch", None) for name, array in batch.arrays.items()}
        targets = [place(array, mesh, "batch", None) for array in (batch.positions, batch.targets)]
        with use_mesh(mesh):
            running = _target_nats(model, params, arrays, *targets), batch.slices
        if pending is not None:
            yield from _read(*pending)
        pending = running
    if pending is not None:
        yield from _read(*pending)


def _packed(inputs: Sequence[_Input], rows: int, length: int) -> _Layouts:
    """Pack a decoder's inputs into rows, in order."""
    remaining = iter(inputs)
    windows = (Window(np.array([*item.tokens, 0], np.int32), 0) for item in inputs)
    for batch, slots in pack(windows, rows, length):
        targets = []
        for slot in slots:
            end = slot.start + len(slot.window)
            targets += [
                _Target(slot.row, end - len(tokens), tokens)
                for tokens in next(remaining).continuations
            ]
        names = ("inputs", "segments", "positions")
        yield {name: batch[name] for name in names}, targets


def _paired(inputs: Sequence[_Input], rows: int, length: int, source_length: int) -> _Layouts:
    """Lay out an encoder-decoder's inputs, one per row: `source_length` tokens for the encoder,
    `length` for the decoder."""
    for first in range(0, len(inputs), rows):
        group = inputs[first : first + rows]
        sources = [item.source for item in group]
        batch = {
            "inputs": _rows([item.tokens for item in group], rows, length),
            "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
            "encoder_tokens": _rows(sources, rows, source_length),
            "encoder_segments": _rows([[1] * len(row) for row in sources], rows, source_length),
            "encoder_positions": np.tile(np.arange(source_length, dtype=np.int32), (rows, 1)),
        }
        targets = [
            _Target(row, len(item.tokens) - len(tokens), tokens)
            for row, item in enumerate(group)
            for tokens in item.continuations
        ]
        yield batch, targets


def _rows(lists: Sequence[Sequence[int]], rows: int, length: int) -> np.ndarray:
    """Pad lists with zeros to int32 [rows, length]."""
    array = np.zeros((rows, length), np.int32)
    for row, values in zip(array, lists, strict=False):
        row[: len(values)] = values
    return array


def _with_targets(
    arrays: Batch, continuations: Sequence[_Target], rows: int, mesh: Mesh | None
) -> ContinuationBatch:
    """Add the continuations' positions and tokens, concatenated in each row."""
    filled, slices = [0] * rows, []
    for row, _, tokens in continuations:
        slices.append((row, slice(filled[row], filled[row] + len(tokens))))
        filled[row] += len(tokens)
    width = rounded_up(bucket(max(filled)), mesh, "length")
    positions, targets = np.zeros((2, rows, width), np.int32)
    for (_, start, tokens), index in zip(continuations, slices, strict=True):
        positions[index] = np.arange(start, start + len(tokens))
        targets[index] = tokens
    return ContinuationBatch(arrays, positions, targets, slices)


def _read(
    results: tuple[jax.Array, jax.Array], slices: Sequence[tuple[int, slice]]
) -> Iterator[Likelihood]:
    nats, correct = np.asarray(results[0], np.float64), np.asarray(results[1])
    return (Likelihood(-float(nats[index].sum()), bool(correct[index].all())) for index in slices)


@partial(jax.jit, static_argnames="model")
def _target_nats(
    model: Model,
    params: Params,
    batch: dict[str, jax.Array],
    positions: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    nats, correct = nll_at(model, params, batch, positions, targets)
    return reshard(nats, None, None), reshard(correct, None, None)
