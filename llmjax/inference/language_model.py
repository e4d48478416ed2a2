"""A loaded language model: logits, scores, generation."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.completions import Completion, Piece, stream_completions
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError
from llmjax.inference.quantization import read_quantized
from llmjax.model.checks import resolve
from llmjax.model.compute import Dtype
from llmjax.model.model import Model
from llmjax.model.params import Params, unstack_layers
from llmjax.model.quantized import Weights
from llmjax.parallel.devices import devices as all_devices
from llmjax.parallel.mesh import MeshConfig, make_mesh, place, reshard, rounded_up, use_mesh
from llmjax.run.config.options import keyword_options
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.parameters import read_parameters, resolve_step, run_network
from llmjax.scoring.documents import score_text
from llmjax.scoring.totals import TextScore

ONE_DEVICE = MeshConfig(fsdp=1)
"""A single device, which needs no mesh."""


@dataclass(frozen=True)
class LoadOptions:
    """How to load a run's model."""

    step: int | None = None
    """Step of the checkpoint; none: the best by evaluation.metric if set, else the newest complete
    one."""
    dtype: Dtype | None = None
    """Dtype of parameters and computation; none: float32 parameters, computation as trained."""
    quantize: Weights | None = None
    """Bits of the weights in memory: int8, with a scale per output channel, or int4, with one per
    16 weights (the embedding, the LM head and projections into the residual stream stay in int8);
    none: as dtype."""
    mesh: MeshConfig | None = ONE_DEVICE
    """Device mesh to shard the model over; in Python also a jax.sharding.Mesh."""


@dataclass(frozen=True, eq=False, repr=False)
class LanguageModel:
    """A model with its parameters and tokenizer.

    Attributes:
      model: the architecture's pure functions.
      params: nested dict of arrays, with a tuple of layers per stack.
      tokenizer: the tokenizer.
      config: of the run.
      mesh: of the parameters; None for one device.
      step: number of training steps.
      heads: parameters of the task heads, by task name.
    """

    model: Model
    params: Params
    tokenizer: Tokenizer
    config: Config
    mesh: Mesh | None = None
    step: int = 0
    heads: Params = field(default_factory=dict)

    def __repr__(self) -> str:
        size, shape = _short(self.model.num_params()), self.model.config
        if shape.moe is not None:
            size = f"{size} ({_short(self.model.num_active_params())} active)"
        devices = self.mesh.devices.size if self.mesh is not None else 1
        return (
            f"LanguageModel({self.config.run_dir} step {self.step}: {size} parameters, "
            f"{shape.num_encoder_layers + shape.num_decoder_layers} layers, width {shape.d_model}, "
            f"context {shape.max_length}, vocabulary {self.tokenizer.vocab_size}, "
            f"{self.model.compute.dtype}, {devices} device{'s' if devices > 1 else ''})"
        )

    @property
    def network_params(self) -> Params:
        """The parameters including the task heads."""
        return {**self.params, "heads": self.heads}

    @property
    def context(self) -> int:
        """Tokens of context that it was trained with: of the longest rows of the stages that it has
        reached."""
        first, *later = self.config.data.all_stages()
        reached = [first, *(stage for stage in later if stage.first_step < self.step)]
        longest = max(stage.length for stage in reached)
        return min(self.model.config.max_length, longest)

    def logits(self, tokens: Any, targets: Any = None) -> jax.Array:
        """Compute next-token logits (of an encoder: the logits of masked tokens).

        Args:
          tokens: int [batch, length]; no special tokens are added.
          targets: int [batch, length], for an encoder-decoder only; the decoder reads BOS and all
            of them but the last, and its logits at i predict target i.

        Returns:
          float32 [batch, length, vocab]; vocab is the embedding's size, which may exceed the
          tokenizer's.

        Raises:
          UserError: an array is invalid for the model.
        """
        rows = self._rows("tokens", tokens)
        if (targets is not None) != self.model.config.is_encoder_decoder:
            reason = "need targets too" if targets is None else "take no targets"
            raise UserError("logits", f"of this kind of model {reason}")
        if targets is None:
            inputs, shape = [rows], rows.shape
        else:
            target_rows = self._rows("targets", targets)
            bos = np.full_like(target_rows[:, :1], self.tokenizer.bos_id)
            inputs = [rows, np.concatenate([bos, target_rows[:, :-1]], axis=1)]
            shape = target_rows.shape
        on_device = [self._place(array) for array in inputs]
        with use_mesh(self.mesh):
            logits = compute_logits(self.model, self.params, *on_device)
            if logits.shape[:2] != shape:
                logits = reshard(logits, None, None, "vocab")[: shape[0], : shape[1]]
        return logits

    def score(
        self, text: str, *, context: int | None = None, stride: int | None = None
    ) -> TextScore:
        """Compute the negative log-likelihood of each token of a text, end-of-text included.

        Args:
          text: at least one character.
          context: maximum tokens that a token is predicted from; None for the training context.
          stride: of the sliding window over longer texts; None for half a context.

        Raises:
          UserError: the text is empty, the model is not a causal decoder, or context or stride is
            out of range.
        """
        return score_text(
            self.model,
            self.params,
            self.tokenizer,
            text,
            context=self.context if context is None else context,
            stride=stride,
            mesh=self.mesh,
        )

    @keyword_options()
    def generate(self, prompts: str | Sequence[str], options: DecodingConfig) -> list[Completion]:
        """Continue prompts; returns completions in order, a prompt's samples consecutively.

        Args:
          prompts: one or more; an empty one starts a new text.
          options: fields of DecodingConfig, also as keywords.

        Raises:
          UserError: a prompt exceeds the context, or a field is unknown or out of range.
        """
        return in_order(self.stream(prompts, options))

    @keyword_options()
    def stream(self, prompts: str | Sequence[str], options: DecodingConfig) -> Iterator[Piece]:
        """Like `generate`, but yield pieces of text as they are generated; see Piece."""
        return self.complete([prompts] if isinstance(prompts, str) else prompts, options)

    def complete(
        self,
        prompts: Sequence[str | Sequence[int]],
        config: DecodingConfig,
        stop_ids: Sequence[int] = (),
    ) -> Iterator[Piece]:
        """Continue prompts of text or tokens, streamed; see `stream_completions`."""
        return stream_completions(
            self.model, self.params, self.tokenizer, prompts, config, self.mesh, stop_ids
        )

    def _rows(self, name: str, tokens: Any) -> np.ndarray:
        rows, limit = np.asarray(tokens), self.model.config.vocab_size
        if rows.ndim != 2 or not rows.size or not np.issubdtype(rows.dtype, np.integer):
            raise UserError(
                f"{name} {rows.dtype} {list(rows.shape)}",
                "must be integers [batch, length]",
                "encode each text with lm.tokenizer, and wrap one row in a list",
            )
        if rows.min() < 0 or rows.max() >= limit:
            raise UserError(name, f"hold ids outside 0 to {limit - 1}")
        if rows.shape[1] > self.model.config.max_length:
            longest = self.model.config.max_length
            raise UserError(f"{name} of {rows.shape[1]}", f"exceed the context of {longest}")
        return rows.astype(np.int32)

    def _place(self, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Place tokens and segments on the devices, padded to sizes that the mesh divides."""
        sizes = zip(rows.shape, ("batch", "residual"), strict=True)
        padding = [(0, rounded_up(size, self.mesh, axis) - size) for size, axis in sizes]
        rows, segments = np.pad(rows, padding), np.pad(np.ones_like(rows), padding)
        return place(rows, self.mesh, "batch", None), place(segments, self.mesh, "batch", None)


def _short(count: int) -> str:
    """Abbreviate a count: 812, 35K, 6.1M, 8.0B."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return f"{count / 1e3:.0f}K" if count >= 1000 else str(count)


def in_order(pieces: Iterable[Piece]) -> list[Completion]:
    """Collect completions from pieces, ordered by prompt and sample."""
    done = {piece.row: piece.completion for piece in pieces if piece.completion is not None}
    return [done[row] for row in sorted(done)]


def loaded(run: str | PathLike[str] | LanguageModel, options: LoadOptions) -> LanguageModel:
    """Return a loaded model as it is, or load a run folder (see `load`)."""
    return run if isinstance(run, LanguageModel) else load(run, options)


@keyword_options()
def load(run: str | PathLike[str], options: LoadOptions) -> LanguageModel:
    """Load a run folder's model.

    Args:
      run: the folder.
      options: fields of LoadOptions, also as keywords.

    Raises:
      UserError: there is no such run, checkpoint or device, or the checkpoint is damaged.
    """
    folder, dtype = Run.open(run), options.dtype
    config = replace(folder.config(), run_dir=str(run))
    tokenizer = load_tokenizer(folder.tokenizer)
    shape = resolve(config.model, tokenizer.vocab_size)
    # Quantized products are for training: what is loaded computes with its weights as stored.
    compute = replace(
        config.compute,
        dtype=dtype or config.compute.dtype,
        quantization="none",
    )
    network = run_network(folder, replace(config, compute=compute), tokenizer, shape)
    all_devices()  # before anything else initializes the backend
    mesh = mesh_of(options.mesh)
    single = SingleDeviceSharding(jax.local_devices()[0])

    def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = single if mesh is None else leaf.sharding
        return jax.ShapeDtypeStruct(leaf.shape, dtype or "float32", sharding=sharding)

    with use_mesh(mesh):
        abstract = jax.tree.map(placed, network.abstract_params())
    step = resolve_step(folder, config, options.step)
    if options.quantize is None:
        params = read_parameters(folder, step, abstract)
    else:
        params = read_quantized(folder, step, abstract, network.model, mesh, options.quantize)
    heads = params.pop("heads", {})
    with use_mesh(mesh):
        params = unstack_layers(params)
    return LanguageModel(network.model, params, tokenizer, config, mesh, step, heads)


def mesh_of(devices: Mesh | MeshConfig | None) -> Mesh | None:
    """Return the mesh of an option `mesh`; None for one device, which needs none."""
    if devices is None or devices == ONE_DEVICE:
        return None
    return make_mesh(devices) if isinstance(devices, MeshConfig) else devices


@partial(jax.jit, static_argnames="model")
def compute_logits(model: Model, params: Params, *rows: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Compute logits of (tokens, segments): the encoder's if there are two, and the decoder's."""
    (tokens, segments), *rest = rows
    if not rest:
        return model.apply(params, tokens, segments=segments)
    targets, target_segments = rest[0]
    return model.apply(
        params,
        targets,
        segments=target_segments,
        encoder_tokens=tokens,
        encoder_segments=segments,
    )
