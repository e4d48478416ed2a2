"""Texts to vectors with a loaded model, as it was published."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from llmjax.errors import UserError
from llmjax.inference.embedding_layers import EmbeddingLayer, apply_layers, layer_from_json
from llmjax.inference.language_model import LanguageModel
from llmjax.inference.pooling import PoolingSpec, pooled_states, text_batch
from llmjax.parallel.mesh import use_mesh
from llmjax.run.folder import local_folder
from llmjax.run.origin import Origin, Pooling, read_origin

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Embedder:
    """A loaded model that embeds texts.

    Attributes:
      lm: the model.
      spec: how it embeds.
      batch_size: texts per batch.
    """

    lm: LanguageModel
    spec: EmbeddingSpec
    batch_size: int = 32

    @cached_property
    def max_tokens(self) -> int:
        """Tokens of a text that are embedded, besides special tokens and those of the prompt."""
        return max(1, self._space - len(self.lm.tokenizer.encode(self.spec.prompt)))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts, without special tokens."""
        return [len(ids) for ids in self.lm.tokenizer.encode_batch(texts)]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32 [texts, width]. Longer texts are truncated, with a warning."""
        encoded = self._encode([self.spec.prompt + text for text in texts])
        return self._finish(self._pooled_vectors(encoded))

    @property
    def _limit(self) -> int:
        context = self.lm.model.config.max_length
        return min(context, self.spec.length) if self.spec.length else context

    @property
    def _space(self) -> int:
        tokenizer = self.lm.tokenizer
        return max(1, self._limit - len(tokenizer.prefix) - len(tokenizer.suffix))

    def _encode(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Encode texts to tokens and segment types, truncated."""
        tokenizer, space = self.lm.tokenizer, self._space
        encoded = tokenizer.encode_batch(texts)
        if cut := sum(len(ids) > space for ids in encoded):
            log.warning("%d of %d texts are cut to %d tokens", cut, len(texts), self._limit)
        rows = [tokenizer.wrap(ids[:space]) for ids in encoded]
        return [row if row[0] else ([tokenizer.bos_id], [0]) for row in rows]

    def _pooled_vectors(self, encoded: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
        """Pool the states of all texts, float32 [texts, D x poolings]."""
        lm, pooling = self.lm, self.spec.pooling
        order = sorted(range(len(encoded)), key=lambda number: len(encoded[number][0]))
        width = lm.model.config.d_model * len(pooling.kinds)
        vectors = np.zeros((len(encoded), width), np.float32)
        for first in range(0, len(order), self.batch_size):
            group = order[first : first + self.batch_size]
            batch = text_batch(lm, [encoded[number] for number in group], self.batch_size)
            with use_mesh(lm.mesh):
                pooled = pooled_states(lm.model, lm.params, batch, pooling)
            vectors[group] = np.asarray(pooled)[: len(group)]
        return vectors

    def _finish(self, vectors: np.ndarray) -> np.ndarray:
        """Apply layers, truncation and normalization to pooled vectors."""
        width, spec = vectors.shape[1], self.spec
        for layer in spec.layers:
            width = layer.output_width(width)
        finished = apply_layers(spec.layers, jnp.asarray(vectors))[:, : spec.truncate]
        if spec.normalize:
            finished = apply_layers((EmbeddingLayer("normalize"),), finished)
        return np.asarray(finished)


def make_embedder(
    lm: LanguageModel,
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
) -> Embedder:
    """Resolve how a model embeds against how it was published.

    Args:
      lm: the model.
      pooling, normalize, prompt, batch_size: as the fields of EmbedOptions.

    Raises:
      UserError: an unknown pooling or prompt, a batch size below 1, or a damaged origin.json.
    """
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    return Embedder(lm, _embedding_spec(lm, pooling, normalize, prompt), batch_size)


def published_prompt(lm: LanguageModel, *names: str) -> str | None:
    """Return the first of these names for which the model has a published prompt, else None."""
    origin = read_origin(local_folder(lm.config.run_dir)) or Origin()
    return next((name for name in names if name in origin.prompts), None)


def _embedding_spec(
    lm: LanguageModel, pooling: Pooling | None, normalize: bool | None, prompt_name: str | None
) -> EmbeddingSpec:
    origin = read_origin(local_folder(lm.config.run_dir)) or Origin()
    encodes = lm.model.config.num_encoder_layers > 0
    default: Pooling = origin.pooling or ("mean" if encodes else "last")
    published = (default, *origin.concatenated)
    kinds = published if pooling is None else (pooling,)
    for kind in kinds:
        if kind not in get_args(Pooling):
            choices = ", ".join(get_args(Pooling))
            raise UserError(f"pooling {kind}", "is unknown", f"choose {choices}")
    as_published = kinds == published
    layers = tuple(map(layer_from_json, origin.steps)) if as_published else ()
    normalized = origin.normalize if normalize is None else normalize
    if origin.normalize and normalize is None and as_published:
        # Before truncation, and not again after it.
        layers, normalized = (*layers, EmbeddingLayer("normalize")), False
    prompt = _prompt(origin, prompt_name)
    skipped = 0
    if prompt and not origin.include_prompt:
        skipped = len(lm.tokenizer.prefix) + len(lm.tokenizer.encode(prompt))
    truncate = origin.truncate if as_published else None
    return EmbeddingSpec(
        prompt, origin.length, PoolingSpec(kinds, skipped), layers, truncate, normalized
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
