"""The verb `fill-mask`: what a masked model would put in the place of its mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.inference.embed import Rows, laid_out, states
from llmjax.inference.language_model import LanguageModel, load
from llmjax.model.compute import Dtype
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import MeshConfig, reshard, use_mesh
from llmjax.run.origin import read_origin

HEADS = ("ForMaskedLM", "ForPreTraining")  # what published models with such a head are called


@dataclass(frozen=True)
class Candidate:
    """A token for a mask.

    Attributes:
      token: its id.
      text: what it stands for.
      probability: of this token in this place.
    """

    token: int
    text: str
    probability: float


def fill_mask(
    run: str | Path | LanguageModel,
    text: str,
    *,
    top: int = 5,
    step: int | None = None,
    dtype: Dtype | None = None,
    mesh: Mesh | MeshConfig | None = None,
) -> list[list[Candidate]]:
    """The likeliest tokens for each mask of a text, each mask by itself.

    Args:
      run: a run folder, or a model in hand (then step, dtype and mesh are its own).
      text: spells the mask token where something is missing.
      top: how many candidates.
      step: which checkpoint; None for the newest complete one.
      dtype: what is computed in; None: as trained.
      mesh: the devices to use; None for one device.

    Returns:
      For each mask, in order, its candidates, the likeliest first.

    Raises:
      UserError: the text has no mask or is too long, or the model does not fill masks.
    """
    lm = run if isinstance(run, LanguageModel) else load(run, step=step, dtype=dtype, mesh=mesh)
    mask_id = _check_model(lm)
    if not 1 <= top <= lm.tokenizer.vocab_size:
        raise UserError(f"top {top}", "is out of range", f"1 to {lm.tokenizer.vocab_size}")
    tokens, types = lm.tokenizer.wrap(lm.tokenizer.encode_marked(text))
    places = [at for at, token in enumerate(tokens) if token == mask_id]
    if not places:
        name = mask_name(lm.tokenizer)
        raise UserError(f"text {text[:50]!r}", "has no mask", f"write {name} where one is missing")
    if len(tokens) > lm.model.config.max_length:
        limit = lm.model.config.max_length
        raise UserError(f"text of {len(tokens)} tokens", f"exceeds the context of {limit}")
    rows = laid_out(lm, [(tokens, types)], 1)
    with use_mesh(lm.mesh):
        logits = np.asarray(_logits(lm.model, lm.params, rows))[0]
    return [_best(lm.tokenizer, logits[at], top) for at in places]


def mask_name(tokenizer: Tokenizer) -> str:
    """How the mask is spelt in a text."""
    return next(n for n, token in tokenizer.special_tokens.items() if token == tokenizer.mask_id)


def _check_model(lm: LanguageModel) -> int:
    """The mask's id."""
    config, mask_id = lm.model.config, lm.tokenizer.mask_id
    if config.num_decoder_layers or not config.num_encoder_layers:
        raise UserError("this model", "is no masked model", "only an encoder fills masks")
    if mask_id is None:
        raise UserError("this model's tokenizer", "has no mask token")
    origin = read_origin(Path(lm.config.run_dir))
    architecture = origin and origin.architecture
    if architecture and not any(name in architecture for name in HEADS):
        raise UserError(f"this model ({architecture})", "was published without a masked-LM head")
    return mask_id


def _best(tokenizer: Tokenizer, logits: np.ndarray, top: int) -> list[Candidate]:
    logits = logits[: tokenizer.vocab_size].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order: Sequence[int] = np.argsort(-shares, kind="stable")[:top].tolist()
    return [Candidate(i, _spelt(tokenizer, i), float(shares[i])) for i in order]


def _spelt(tokenizer: Tokenizer, token: int) -> str:
    names = {number: name for name, number in tokenizer.special_tokens.items()}
    return names.get(token) or tokenizer.piece_bytes(token).decode("utf-8", "replace")


@partial(jax.jit, static_argnames="model")
def _logits(model: Model, params: Params, rows: Rows) -> jax.Array:
    """float32 [B, L, V], whole on every device."""
    logits = model.logits(params, states(model, params, rows))
    return reshard(logits.astype(jnp.float32), None, None, None)
