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
from llmjax.inference.language_model import LanguageModel, load
from llmjax.inference.vector_steps import Step, after, step_of
from llmjax.model.compute import Dtype
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import MeshConfig, axis_size, place, reshard, use_mesh
from llmjax.run.origin import Origin, Pooling, read_origin

log = logging.getLogger(__name__)


class Pool(NamedTuple):
    """How the states of a text's tokens become one vector.

    Attributes:
      kinds: poolings, whose vectors are put one behind another.
      skipped: tokens at the beginning that do not count: those of a prompt.
    """

    kinds: tuple[Pooling, ...]
    skipped: int = 0


class Recipe(NamedTuple):
    """All that is done to a text besides the model.

    Attributes:
      prompt: what is put before it.
      length: tokens at most; None for the model's context.
      pool: how tokens' states become a vector.
      steps: what is done with that.
      truncate: how many of its numbers are kept; None for all.
      normalize: whether it is brought to length 1 after that.
    """

    prompt: str
    length: int | None
    pool: Pool
    steps: tuple[Step, ...]
    truncate: int | None
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
    prompt: str | None = None,
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
      pooling: None: as the model was published, else the mean, and a decoder's last token. With
        another than the published one, what the published model does after pooling is left out.
      normalize: whether vectors have length 1; None: as the model was published, else no.
      prompt: the name of one of the prompts that the model was published with, to put before each
        text; "" for none, None for the one that it was published to have.
      batch_size: texts read at once; those of like length go together.
      step: which checkpoint; None for the newest complete one.
      dtype: what is computed in; None: as trained.
      mesh: the devices to use; None for one device.

    Returns:
      float32 [texts, width].

    Raises:
      UserError: no such run or step, an unknown pooling or prompt, or a batch of no texts.
    """
    lm = run if isinstance(run, LanguageModel) else load(run, step=step, dtype=dtype, mesh=mesh)
    lines = [texts] if isinstance(texts, str) else list(texts)
    origin = read_origin(Path(lm.config.run_dir)) or Origin()
    recipe = _recipe(lm, origin, pooling, normalize, prompt)
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    read = _wrapped(lm, [recipe.prompt + line for line in lines], recipe.length)
    order = sorted(range(len(read)), key=lambda number: len(read[number][0]))
    width = lm.model.config.d_model * len(recipe.pool.kinds)
    vectors = np.zeros((len(read), width), np.float32)
    for first in range(0, len(order), batch_size):
        group = order[first : first + batch_size]
        rows = laid_out(lm, [read[number] for number in group], batch_size)
        with use_mesh(lm.mesh):
            found = _vectors(lm.model, lm.params, rows, recipe.pool)
        vectors[group] = np.asarray(found)[: len(group)]
    return _finished(recipe, vectors)


def _finished(recipe: Recipe, vectors: np.ndarray) -> np.ndarray:
    """Pooled vectors after all that follows."""
    width = vectors.shape[1]
    for step in recipe.steps:
        width = step.width(width)
    found = after(recipe.steps, jnp.asarray(vectors))[:, : recipe.truncate]
    if recipe.normalize:
        found = after((Step("normalize"),), found)
    return np.asarray(found)


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


def _recipe(
    lm: LanguageModel,
    origin: Origin,
    pooling: Pooling | None,
    normalize: bool | None,
    prompt: str | None,
) -> Recipe:
    """What is done: as the model was published, but for what is asked for."""
    encodes = lm.model.config.num_encoder_layers > 0
    usual: Pooling = origin.pooling or ("mean" if encodes else "last")
    published = (usual, *origin.concatenated)
    kinds = published if pooling is None else (pooling,)
    for kind in kinds:
        if kind not in get_args(Pooling):
            known = ", ".join(get_args(Pooling))
            raise UserError(f"pooling {kind}", "is unknown", f"choose {known}")
    as_published = kinds == published
    steps = tuple(map(step_of, origin.steps)) if as_published else ()
    ends = origin.normalize if normalize is None else normalize
    if origin.normalize and normalize is None and as_published:
        steps, ends = (*steps, Step("normalize")), False  # what is cut off then is not made up for
    text = _prompt(origin, prompt)
    skipped = 0
    if text and not origin.include_prompt:
        skipped = len(lm.tokenizer.prefix) + len(lm.tokenizer.encode(text))
    truncate = origin.truncate if as_published else None
    return Recipe(text, origin.length, Pool(kinds, skipped), steps, truncate, ends)


def _prompt(origin: Origin, name: str | None) -> str:
    """The text of a prompt."""
    name = origin.default_prompt if name is None else name
    if not name:
        return ""
    if name not in origin.prompts:
        have = ", ".join(origin.prompts) or "none"
        raise UserError(f"prompt {name}", "is not one of the model's", f"it has {have}")
    return origin.prompts[name]


@partial(jax.jit, static_argnames=("model", "pool"))
def _vectors(model: Model, params: Params, rows: Rows, pool: Pool) -> jax.Array:
    """float32 [B, D x poolings], whole on every device."""
    x = reshard(states(model, params, rows).astype(jnp.float32), "batch", None, None)
    inside = reshard(rows.segments, "batch", None) > 0
    inside &= jnp.arange(x.shape[1]) >= pool.skipped
    found = jnp.concatenate([_pooled(kind, x, inside) for kind in pool.kinds], axis=-1)
    return reshard(found, None, None)


def _pooled(kind: Pooling, x: jax.Array, inside: jax.Array) -> jax.Array:
    """One vector of each row's states [B, L, D], of those that count [B, L]: [B, D]."""
    places = jnp.arange(x.shape[1])
    match kind:
        case "mean" | "mean_sqrt" | "weighted_mean":
            weights = inside * (places + 1.0 if kind == "weighted_mean" else 1.0)
            total = jnp.where(inside[..., None], x * weights[..., None], 0).sum(axis=1)
            divisor = jnp.maximum(weights.sum(axis=1), 1e-9)
            divisor = jnp.sqrt(divisor) if kind == "mean_sqrt" else divisor
            return total / divisor[:, None]
        case "max":
            return jnp.where(inside[..., None], x, -jnp.inf).max(axis=1)
        case "cls":
            at = inside.argmax(axis=1)
        case "last":
            at = x.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    return jnp.where((places == at[:, None])[..., None], x, 0).sum(axis=1)
