"""The command `embed`: text embeddings."""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.decoding.rows import bucket, padded
from llmjax.errors import UserError
from llmjax.inference.embedding_layers import EmbeddingLayer, apply_layers, layer_from_json
from llmjax.inference.generate import read_prompts
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import place, reshard, rounded_up, use_mesh
from llmjax.run.config.options import keyword_options
from llmjax.run.folder import local_folder
from llmjax.run.origin import Origin, Pooling, read_origin
from llmjax.storage.cache_folders import write_file
from llmjax.storage.json_documents import json_text
from llmjax.storage.stores.path import local_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedOptions(LoadOptions):
    """Options of embed."""

    text: tuple[str, ...] = ()
    """A text; repeat it for more."""
    file: str | None = None
    """More texts, one per line; - for standard input; .jsonl for multi-line texts, as JSON
    strings or objects with "text"."""
    out: str | None = None
    """Output file: .npy, float32 [texts, width], or .jsonl, one line per text."""
    pooling: Pooling | None = None
    """How token states are pooled; none: as the model was published, else "mean" (encoders) or
    "last" (decoders). Any other than the published pooling skips the published model's layers after
    pooling."""
    normalize: bool | None = None
    """Whether to L2-normalize vectors; none: as the model was published, else no."""
    prompt: str | None = None
    """Name of a published prompt to prepend to each text; "": no prompt; none: the model's default
    prompt."""
    batch_size: int = 32
    """Texts per batch; texts of similar length are batched together."""


class PoolingSpec(NamedTuple):
    """How token states are pooled into one vector.

    Attributes:
      kinds: poolings, whose vectors are concatenated.
      skipped: leading tokens that are excluded: those of a prompt.
    """

    kinds: tuple[Pooling, ...]
    skipped: int = 0


class EmbeddingSpec(NamedTuple):
    """How embeddings are computed around the model.

    Attributes:
      prompt: prepended to each text.
      length: maximum tokens; None for the model's context.
      pooling: how token states are pooled.
      layers: applied after pooling.
      truncate: number of leading dimensions kept; None for all.
      normalize: whether to L2-normalize after that.
    """

    prompt: str
    length: int | None
    pooling: PoolingSpec
    layers: tuple[EmbeddingLayer, ...]
    truncate: int | None
    normalize: bool


class TextBatch(NamedTuple):
    """Model inputs for texts: int32 [rows, length] each, on the devices.

    Attributes:
      tokens: right-padded.
      segments: 1, and 0 for padding.
      types: segment types.
    """

    tokens: jax.Array
    segments: jax.Array
    types: jax.Array


@keyword_options("text")
def embed(run: str | PathLike[str] | LanguageModel, options: EmbedOptions) -> np.ndarray:
    """Embed texts, special tokens included.

    An encoder-decoder embeds with its encoder. Texts are truncated to the context, or to the
    published length of the model.

    Args:
      run: a run folder, or a loaded model.
      options: fields of EmbedOptions, also as keywords.

    Returns:
      float32 [texts, width].

    Raises:
      UserError: no such run, step or file, an unknown pooling or prompt, or a batch size below 1.
    """
    texts = all_texts(options)
    if options.batch_size < 1:
        raise UserError(f"batch_size {options.batch_size}", "is not positive")
    out = None if options.out is None else local_path(options.out)
    if out is not None and out.suffix not in (".npy", ".jsonl"):
        raise UserError(out, "is neither .npy nor .jsonl", "use one of these suffixes")
    lm = loaded(run, options)
    spec = _embedding_spec(lm, options)
    encoded = _encode(lm, [spec.prompt + text for text in texts], spec.length)
    vectors = _finish(spec, _pooled_vectors(lm, encoded, spec, options.batch_size))
    if out is not None:
        _write(out, texts, vectors)
    return vectors


def all_texts(options: EmbedOptions) -> list[str]:
    """Return the texts of the options and of their file."""
    return [
        *options.text,
        *(read_prompts(options.file, "text") if options.file is not None else []),
    ]


def _pooled_vectors(
    lm: LanguageModel,
    encoded: Sequence[tuple[list[int], list[int]]],
    spec: EmbeddingSpec,
    batch_size: int,
) -> np.ndarray:
    """Pool the states of all texts, float32 [texts, D x poolings]."""
    order = sorted(range(len(encoded)), key=lambda number: len(encoded[number][0]))
    width = lm.model.config.d_model * len(spec.pooling.kinds)
    vectors = np.zeros((len(encoded), width), np.float32)
    for first in range(0, len(order), batch_size):
        group = order[first : first + batch_size]
        batch = text_batch(lm, [encoded[number] for number in group], batch_size)
        with use_mesh(lm.mesh):
            pooled = pooled_states(lm.model, lm.params, batch, spec.pooling)
        vectors[group] = np.asarray(pooled)[: len(group)]
    return vectors


def _finish(spec: EmbeddingSpec, vectors: np.ndarray) -> np.ndarray:
    """Apply layers, truncation and normalization to pooled vectors."""
    width = vectors.shape[1]
    for layer in spec.layers:
        width = layer.output_width(width)
    finished = apply_layers(spec.layers, jnp.asarray(vectors))[:, : spec.truncate]
    if spec.normalize:
        finished = apply_layers((EmbeddingLayer("normalize"),), finished)
    return np.asarray(finished)


def _write(out: Path, texts: Sequence[str], vectors: np.ndarray) -> None:
    content = io.BytesIO()
    if out.suffix == ".npy":
        np.save(content, vectors)
    else:
        for text, vector in zip(texts, vectors.tolist(), strict=True):
            line = json_text({"text": text, "vector": vector})
            content.write(f"{line}\n".encode())
    write_file(out, content.getvalue())


def text_batch(
    lm: LanguageModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int
) -> TextBatch:
    """Place rows on the devices; number and length are rounded up, so that few shapes compile."""
    tokens, types = zip(*rows, strict=True)
    limit = lm.model.config.max_length
    segments = padded([[1] * len(row) for row in tokens], limit)
    arrays = [padded(tokens, limit), segments, padded(types, limit)]
    count = rounded_up(min(bucket(len(rows), 1), batch_size), lm.mesh, "batch")
    length = rounded_up(segments.shape[1], lm.mesh, "residual")
    padding = [(0, count - len(rows)), (0, length - segments.shape[1])]
    return TextBatch(*(place(np.pad(array, padding), lm.mesh, "batch", None) for array in arrays))


def states(model: Model, params: Params, batch: TextBatch) -> jax.Array:
    """Return the last hidden states, [B, L, D]; of an encoder-decoder, the encoder's."""
    if model.config.is_encoder_decoder:
        return model.encode(params, batch.tokens, batch.segments)
    types = batch.types if model.config.token_types else None
    return model.hidden(params, batch.tokens, segments=batch.segments, token_types=types)


def _encode(
    lm: LanguageModel, texts: Sequence[str], length: int | None
) -> list[tuple[list[int], list[int]]]:
    """Encode texts to tokens and segment types, truncated to `length` if any."""
    tokenizer, context = lm.tokenizer, lm.model.config.max_length
    limit = min(context, length) if length else context
    space = max(1, limit - len(tokenizer.prefix) - len(tokenizer.suffix))
    encoded = tokenizer.encode_batch(texts)
    if cut := sum(len(ids) > space for ids in encoded):
        log.warning("%d of %d texts are cut to %d tokens", cut, len(texts), limit)
    rows = [tokenizer.wrap(ids[:space]) for ids in encoded]
    return [row if row[0] else ([tokenizer.bos_id], [0]) for row in rows]


def _embedding_spec(lm: LanguageModel, options: EmbedOptions) -> EmbeddingSpec:
    """Resolve the options against how the model was published."""
    origin = read_origin(local_folder(lm.config.run_dir)) or Origin()
    encodes = lm.model.config.num_encoder_layers > 0
    default: Pooling = origin.pooling or ("mean" if encodes else "last")
    published = (default, *origin.concatenated)
    kinds = published if options.pooling is None else (options.pooling,)
    for kind in kinds:
        if kind not in get_args(Pooling):
            choices = ", ".join(get_args(Pooling))
            raise UserError(f"pooling {kind}", "is unknown", f"choose {choices}")
    as_published = kinds == published
    layers = tuple(map(layer_from_json, origin.steps)) if as_published else ()
    normalize = origin.normalize if options.normalize is None else options.normalize
    if origin.normalize and options.normalize is None and as_published:
        # Before truncation, and not again after it.
        layers, normalize = (*layers, EmbeddingLayer("normalize")), False
    prompt = _prompt(origin, options.prompt)
    skipped = 0
    if prompt and not origin.include_prompt:
        skipped = len(lm.tokenizer.prefix) + len(lm.tokenizer.encode(prompt))
    truncate = origin.truncate if as_published else None
    return EmbeddingSpec(
        prompt, origin.length, PoolingSpec(kinds, skipped), layers, truncate, normalize
    )


def _prompt(origin: Origin, name: str | None) -> str:
    """Return the text of a published prompt."""
    name = origin.default_prompt if name is None else name
    if not name:
        return ""
    if name not in origin.prompts:
        names = ", ".join(origin.prompts) or "none"
        raise UserError(f"prompt {name}", "is not one of the model's", f"it has {names}")
    return origin.prompts[name]


@partial(jax.jit, static_argnames=("model", "pooling"))
def pooled_states(
    model: Model, params: Params, batch: TextBatch, pooling: PoolingSpec
) -> jax.Array:
    """Pool the hidden states, float32 [B, D x poolings], replicated on every device."""
    x = reshard(states(model, params, batch).astype(jnp.float32), "batch", None, None)
    inside = reshard(batch.segments, "batch", None) > 0
    inside &= jnp.arange(x.shape[1]) >= pooling.skipped
    pooled = jnp.concatenate([_pooled(kind, x, inside) for kind in pooling.kinds], axis=-1)
    return reshard(pooled, None, None)


def _pooled(kind: Pooling, x: jax.Array, inside: jax.Array) -> jax.Array:
    """Pool states [B, L, D] where `inside` [B, L] is true: [B, D]."""
    positions = jnp.arange(x.shape[1])
    match kind:
        case "mean" | "mean_sqrt" | "weighted_mean":
            weights = inside * (positions + 1.0 if kind == "weighted_mean" else 1.0)
            total = jnp.where(inside[..., None], x * weights[..., None], 0).sum(axis=1)
            divisor = jnp.maximum(weights.sum(axis=1), 1e-9)
            divisor = jnp.sqrt(divisor) if kind == "mean_sqrt" else divisor
            return total / divisor[:, None]
        case "max":
            return jnp.where(inside[..., None], x, -jnp.inf).max(axis=1)
        case "cls":
            index = inside.argmax(axis=1)
        case "last":
            index = x.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    return jnp.where((positions == index[:, None])[..., None], x, 0).sum(axis=1)
