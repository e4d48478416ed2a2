"""What a run works with: its folder, text, model, devices and optimizer, all checked."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from llmjax.checkpoint import Position
from llmjax.checkpoint.reading import wait_for_all
from llmjax.config import Config
from llmjax.data import Corpus, Tokenizer, prepare, steps_per_epoch, terminal_progress
from llmjax.data.objective_config import CausalConfig, control_pieces
from llmjax.data.objectives import Objective, make_objective
from llmjax.errors import UserError
from llmjax.losses import causal_loss
from llmjax.mesh import check_divides, make_mesh
from llmjax.model import Model, flops_per_token, resolve
from llmjax.optimizers import Optimizer, make_optimizer
from llmjax.run import Run
from llmjax.step import Batch, LossFunction, Sums


@dataclass(frozen=True)
class Session:
    """One start of a run: everything that stays as it is."""

    config: Config
    run: Run
    tokenizer: Tokenizer
    corpus: Corpus
    objective: Objective
    model: Model
    mesh: Mesh
    optimizer: Optimizer
    steps: int
    """Steps of the whole run: as configured, or what one epoch holds where it may not repeat."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return jax.process_index() == 0

    @property
    def is_causal(self) -> bool:
        """Whether every token is predicted from those before it: only then a text has a price."""
        return isinstance(self.config.objective, CausalConfig)

    @property
    def flops_per_token(self) -> float:
        """Model FLOPs, forward and backward; the mean of both where an encoder and a decoder read
        tokens (as if they read equally many)."""
        readers = 2 if self.model.config.is_encoder_decoder else 1
        return flops_per_token(self.model.config, self.config.data.length) / readers

    def token_bytes(self) -> jax.Array:
        """int32 [vocab]: the bytes of text of each token, 0 for ids that are never used."""
        sizes = self.tokenizer.token_bytes()
        unused = self.model.config.vocab_size - len(sizes)
        return jnp.pad(jnp.asarray(sizes, jnp.int32), (0, unused))

    @property
    def loss_function(self) -> LossFunction:
        """The loss as a function of parameters, batch and dropout key."""
        loss = self.config.loss
        has_dropout = self.model.config.dropout > 0

        def objective(params: object, batch: Batch, key: jax.Array | None) -> Sums:
            return causal_loss(
                self.model,
                params,  # type: ignore[arg-type]
                batch,
                dropout_key=key if has_dropout else None,
                z_loss=loss.z_loss,
                label_smoothing=loss.label_smoothing,
            )

        return objective

    def position(self, step: int) -> Position:
        """Where the run stands before batch `step`, nothing counted yet."""
        data = self.config.data
        return Position(
            step=step,
            seed=self.config.seed,
            batch_size=data.batch_size,
            length=data.length,
            corpus=self.corpus.fingerprint,
            epoch=step / max(steps_per_epoch(self.corpus, data), 1),
        )

    def check_same_batches(self, position: Position) -> None:
        """Checks that batch `position.step` is the one that would have come next then.

        Raises:
          UserError: the text, its tokens or the batches' shape are others.
        """
        here = self.position(position.step)
        for name in ("seed", "batch_size", "length", "corpus"):
            then, now = getattr(position, name), getattr(here, name)
            if then != now:
                raise UserError(
                    self.run.folder,
                    f"was trained on another {name} ({then}) than this one ({now})",
                    "restore the text as it was, or choose another --run-dir",
                )


def open_session(config: Config, run: Run) -> Session:
    """Prepares text and tokenizer, and checks model and mesh against each other.

    Raises:
      UserError: the data cannot be used, or sizes do not suit each other or the devices.
    """
    mesh = make_mesh(config.mesh)
    if jax.process_index() == 0:
        prepared = _prepare(config, run)
    wait_for_all("text prepared")  # the other processes then find it in the cache
    tokenizer, corpus = prepared if jax.process_index() == 0 else _prepare(config, run)
    model = Model(resolve(config.model, tokenizer.vocab_size))
    data, parts = config.data, config.optimizer.accumulate
    encodes = model.config.is_encoder_decoder
    objective = make_objective(config.objective, tokenizer, encodes=encodes)
    name = "the batch" if parts == 1 else "a part of the batch"
    for length in objective.lengths(data.length):
        check_divides(name, (data.batch_size // parts, length), ("batch", "residual"), mesh)
    steps = _run_length(config, corpus)
    optimizer = make_optimizer(config.optimizer, steps, model.logical_axes())
    return Session(config, run, tokenizer, corpus, objective, model, mesh, optimizer, steps)


def _run_length(config: Config, corpus: Corpus) -> int:
    if config.data.on_exhaustion == "repeat":
        return config.steps
    epoch = steps_per_epoch(corpus, config.data)
    if config.data.on_exhaustion == "error" and epoch < config.steps:
        raise UserError(
            f"steps {config.steps}",
            f"the text is exhausted after {epoch}, and data.on_exhaustion is error",
            f"set steps to {epoch}, add text, or let it stop or repeat",
        )
    return min(config.steps, epoch)


def _prepare(config: Config, run: Run) -> tuple[Tokenizer, Corpus]:
    with terminal_progress() as progress:
        pieces = control_pieces(config.objective)
        return prepare(config.data, config.tokenizer, run.tokenizer, progress, pieces)
