"""The command `fill-mask`: predictions of a masked language model for mask tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.inference.pooling import TextBatch, states, text_batch
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import reshard, use_mesh
from llmjax.run.config.options import keyword_options
from llmjax.run.folder import local_folder
from llmjax.run.origin import read_origin

HEADS = ("ForMaskedLM", "ForPreTraining")  # class name suffixes of published models with a head


@dataclass(frozen=True)
class Candidate:
    """A candidate token for a mask.

    Attributes:
      token: the token id.
      text: the token's text.
      probability: of the token at the mask.
    """

    token: int
    text: str
    probability: float


@dataclass(frozen=True)
class FillMaskOptions(LoadOptions):
    """Options of fill_mask."""

    top: int = 5
    """Candidates per mask."""


@keyword_options()
def fill_mask(
    run: str | PathLike[str] | LanguageModel, text: str, options: FillMaskOptions
) -> list[list[Candidate]]:
    """Predict the most likely tokens for each mask of a text, independently.

    Args:
      run: a run folder, or a loaded model.
      text: contains mask tokens.
      options: fields of FillMaskOptions, also as keywords.

    Returns:
      For each mask, in order, its candidates, most likely first.

    Raises:
      UserError: the text has no mask or is too long, or the model has no masked-LM head.
    """
    lm, top = loaded(run, options), options.top
    mask_id = _check_model(lm)
    if not 1 <= top <= lm.tokenizer.vocab_size:
        raise UserError(f"top {top}", "is out of range", f"1 to {lm.tokenizer.vocab_size}")
    tokens, types = lm.tokenizer.wrap(lm.tokenizer.encode_marked(text))
    positions = [index for index, token in enumerate(tokens) if token == mask_id]
    if not positions:
        name = mask_name(lm.tokenizer)
        raise UserError(f"text {text[:50]!r}", "has no mask", f"write {name} for the missing word")
    if len(tokens) > lm.model.config.max_length:
        limit = lm.model.config.max_length
        raise UserError(f"text of {len(tokens)} tokens", f"exceeds the context of {limit}")
    batch = text_batch(lm, [(tokens, types)], 1)
    with use_mesh(lm.mesh):
        logits = np.asarray(mask_logits(lm.model, lm.params, batch))[0]
    return [_best(lm.tokenizer, logits[index], top) for index in positions]


def mask_name(tokenizer: Tokenizer) -> str:
    """Return the text of the mask token."""
    return next(n for n, token in tokenizer.special_tokens.items() if token == tokenizer.mask_id)


def _check_model(lm: LanguageModel) -> int:
    """Check that the model fills masks; return the mask token's id."""
    config, mask_id = lm.model.config, lm.tokenizer.mask_id
    if config.num_decoder_layers or not config.num_encoder_layers:
        raise UserError("this model", "is not a masked model", "only an encoder fills masks")
    if mask_id is None:
        raise UserError("this model's tokenizer", "has no mask token")
    origin = read_origin(local_folder(lm.config.run_dir))
    architecture = origin and origin.architecture
    if architecture and not any(name in architecture for name in HEADS):
        raise UserError(f"this model ({architecture})", "was published without a masked-LM head")
    return mask_id


def _best(tokenizer: Tokenizer, logits: np.ndarray, top: int) -> list[Candidate]:
    logits = logits[: tokenizer.vocab_size].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    order: Sequence[int] = np.argsort(-probabilities, kind="stable")[:top].tolist()
    return [Candidate(i, _token_text(tokenizer, i), float(probabilities[i])) for i in order]


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    names = {number: name for name, number in tokenizer.special_tokens.items()}
    return names.get(token) or tokenizer.piece_bytes(token).decode("utf-8", "replace")


@partial(jax.jit, static_argnames="model")
def mask_logits(model: Model, params: Params, batch: TextBatch) -> jax.Array:
    """Compute logits, float32 [B, L, V], replicated on every device."""
    logits = model.logits(params, states(model, params, batch))
    return reshard(logits.astype(jnp.float32), None, None, None)
