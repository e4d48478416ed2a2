"""The verb `embed`: texts as vectors."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llmjax.decoding.rows import bucket, padded
from llmjax.errors import UserError
from llmjax.language_model import LanguageModel, load
from llmjax.mesh import MeshConfig, axis_size, place, reshard, use_mesh
from llmjax.model import Model, Params
from llmjax.model.config import Dtype
from llmjax.origin import Origin, Pooling, read_origin

log = logging.getLogger(__name__)


class Pool(NamedTuple):
    """How the states of a text's tokens become one vector.

    Attributes:
      kind: their mean, the first one or the last one.
      normalize: whether the vector is divided by its length.
    """

    kind: Pooling
    normalize: bool


class Rows(NamedTuple):
    """Texts as a model reads them: int32 [rows, length] each, on the devices.

    Attributes:
      tokens: padded behind each text.
      segments: 1, and 0 for padding.
      types: segment types.
    """

    tokens: jax.Array
    segments: jax.Array
    types: jax.Array


def embed(
    run: str | Path | LanguageModel,
    texts: str | Sequence[str],
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    batch_size: int = 32,
    step: int | None = None,
    dtype: Dtype | None = None,
    mesh: Mesh | MeshConfig | None = None,
) -> np.ndarray:
    """One vector for each text, of its tokens and the special ones around them.

    An encoder-decoder's encoder is taken. Texts are cut to the context, or to the length that the
    model was published for.

    Args:
      run: a run folder, or a model in hand (then step, dtype and mesh are its own).
      texts: one or more.
      pooling: None: as the model was published, else the mean, and a decoder's last token.
      normalize: whether vectors have length 1; None: as the model was published, else no.
      batch_size: texts read at once; those of like length go together.
      step: which checkpoint; None for the newest whole one.
      dtype: what is computed in; None: as trained.
      mesh: the devices to use; None for one device.

    Returns:
      float32 [texts, width].

    Raises:
      UserError: no such run or step, an unknown pooling, or a batch of no texts.
    """
    lm = run if isinstance(run, LanguageModel) else load(run, step=step, dtype=dtype, mesh=mesh)
    lines = [texts] if isinstance(texts, str) else list(texts)
    origin = read_origin(Path(lm.config.run_dir)) or Origin()
    pool = _pool(lm, origin, pooling, normalize)
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    read = _wrapped(lm, lines, origin.length)
    order = sorted(range(len(read)), key=lambda number: len(read[number][0]))
    vectors = np.zeros((len(read), lm.model.config.d_model), np.float32)
    for first in range(0, len(order), batch_size):
        group = order[first : first + batch_size]
        rows = laid_out(lm, [read[number] for number in group], batch_size)
        with use_mesh(lm.mesh):
            found = _vectors(lm.model, lm.params, rows, pool)
        vectors[group] = np.asarray(found)[: len(group)]
    return vectors


def laid_out(
    lm: LanguageModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int
) -> Rows:
    """Rows on the devices; their number and length are rounded up, so that few shapes compile."""
    tokens, types = zip(*rows, strict=True)
    limit = lm.model.config.max_length
    segments = padded([[1] * len(row) for row in tokens], limit)
    arrays = [padded(tokens, limit), segments, padded(types, limit)]
    count = min(bucket(len(rows), 1), batch_size)
    sizes = (1, 1) if lm.mesh is None else _parts(lm.mesh)
    more = [(0, count - len(rows) + -count % sizes[0]), (0, -segments.shape[1] % sizes[1])]
    return Rows(*(place(np.pad(array, more), lm.mesh, "batch", None) for array in arrays))


def states(model: Model, params: Params, rows: Rows) -> jax.Array:
    """The last layer's state of each token, [B, L, D]; of an encoder-decoder, the encoder's."""
    if model.config.is_encoder_decoder:
        return model.encode(params, rows.tokens, rows.segments)
    types = rows.types if model.config.token_types else None
    return model.hidden(params, rows.tokens, segments=rows.segments, token_types=types)


def _wrapped(
    lm: LanguageModel, texts: Sequence[str], length: int | None
) -> list[tuple[list[int], list[int]]]:
    """What the model reads of each text: tokens and segment types; `length` at most, if any."""
    tokenizer, context = lm.tokenizer, lm.model.config.max_length
    limit = min(context, length) if length else context
    room = max(1, limit - len(tokenizer.prefix) - len(tokenizer.suffix))
    encoded = tokenizer.encode_batch(texts)
    if cut := sum(len(ids) > room for ids in encoded):
        log.warning("%d of %d texts are cut to %d tokens", cut, len(texts), limit)
    found = [tokenizer.wrap(ids[:room]) for ids in encoded]
    return [row if row[0] else ([tokenizer.bos_id], [0]) for row in found]


def _parts(mesh: Mesh) -> tuple[int, int]:
    return axis_size(mesh, "batch"), axis_size(mesh, "residual")


def _pool(
    lm: LanguageModel,
    origin: Origin,
    pooling: Pooling | None,
    normalize: bool | None,
) -> Pool:
    encodes = lm.model.config.num_encoder_layers > 0
    kind = pooling or origin.pooling or ("mean" if encodes else "last")
    if kind not in get_args(Pooling):
        raise UserError(f"pooling {kind}", "is unknown", f"choose {', '.join(get_args(Pooling))}")
    unit = origin.normalize if normalize is None else normalize
    return Pool(kind, unit)


@partial(jax.jit, static_argnames=("model", "pool"))
def _vectors(model: Model, params: Params, rows: Rows, pool: Pool) -> jax.Array:
    """float32 [B, D], whole on every device."""
    x = reshard(states(model, params, rows).astype(jnp.float32), "batch", None, None)
    inside = reshard(rows.segments, "batch", None) > 0
    counts = jnp.maximum(inside.sum(axis=1), 1)
    if pool.kind == "mean":
        found = jnp.where(inside[..., None], x, 0).sum(axis=1) / counts[:, None]
    else:
        at = jnp.arange(x.shape[1]) == (0 if pool.kind == "cls" else counts[:, None] - 1)
        found = jnp.where(at[..., None], x, 0).sum(axis=1)
    if pool.normalize:
        found /= jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
    return reshard(found, None, None)
