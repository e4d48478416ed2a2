"""Pre-training: the workload of a corpus and an objective."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llmjax.data.batch import Batch
from llmjax.data.datatrove.executors import Executor
from llmjax.data.loader import CorpusFeed, Feed, batch_shapes
from llmjax.data.objectives.config import Objective
from llmjax.data.order import epochs_before, steps_per_epoch
from llmjax.data.progress import Progress, terminal_progress
from llmjax.data.text.corpus import (
    Corpus,
    Document,
    prepare,
    share_shards,
    validation_documents,
)
from llmjax.data.text.encoding import cpus
from llmjax.data.text.store_building import build_store
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.losses.loss import Loss, with_bits_per_byte
from llmjax.losses.token_loss import token_loss
from llmjax.model.model import Model
from llmjax.run.checkpoint.reading import wait_for_all
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.telemetry.display import short_count
from llmjax.scoring.documents import score_documents
from llmjax.scoring.hidden import has_targets, score_hidden
from llmjax.scoring.totals import Totals
from llmjax.state import Tree
from llmjax.step import LossFunction
from llmjax.storage.stores.path import is_store, location
from llmjax.storage.writing import cache_root
from llmjax.training.processes import local_processes
from llmjax.training.workload import EvalResult

log = logging.getLogger(__name__)

FIRST_ROWS = 256
"""At least one of this many rows must have a target."""


@dataclass(frozen=True, eq=False)
class Pretraining:
    """Windows of a corpus, as inputs and targets of an objective."""

    config: Config
    tokenizer: Tokenizer
    corpus: Corpus
    objective: Objective
    model: Model

    has_lm_head = True

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    @cached_property
    def steps_per_epoch(self) -> float:
        return steps_per_epoch(self.corpus, self.config.data)

    def epochs(self, step: int) -> float:
        return epochs_before(self.corpus, self.config.data.all_stages(), step)

    @property
    def is_finite(self) -> bool:
        return self.config.data.on_exhaustion == "stop"

    @property
    def losses(self) -> tuple[LossFunction, ...]:
        config, has_dropout = self.config.loss, self.model.compute.dropout > 0
        causal = self.config.objective.is_causal
        unused = self.model.config.vocab_size - self.tokenizer.vocab_size
        token_bytes = np.pad(self.tokenizer.token_bytes().astype(np.int32), (0, unused))

        def objective(params: Tree, batch: Batch, key: jax.Array | None) -> Loss:
            loss = token_loss(
                self.model,
                params,
                batch,
                dropout_key=key if has_dropout else None,
                z_loss=config.z_loss,
                label_smoothing=config.label_smoothing,
                multi_token_weight=config.multi_token_weight if causal else 0.0,
            )
            if not causal:
                return loss
            return with_bits_per_byte(
                loss, batch["targets"], batch["weights"], jnp.asarray(token_bytes)
            )

        return (objective,) * len(batch_shapes(self.config.data))

    def feed(self) -> Feed:
        return CorpusFeed(self.corpus, self.config.data, self.config.seed, self.objective)

    def evaluates_subset(self, metric: str | None) -> bool:
        return self.config.evaluation.max_tokens is not None

    def evaluate(self, params: Tree, mesh: Mesh, full: bool) -> EvalResult | None:
        """Scores the validation documents: all, or the first `evaluation.max_tokens` tokens."""
        documents = self._validation_set(full)
        if not documents:
            return None
        score = self._score_all if self.config.objective.is_causal else self._score_hidden
        totals = score(params, documents, self._context, mesh)
        sizes = {"heldout_tokens": totals.tokens, "heldout_bytes": totals.bytes}
        return EvalResult(totals.loss_per_token, totals.quality() | sizes, totals.larger_is_better)

    @property
    def _context(self) -> int:
        """Tokens of a window in which the validation set is scored."""
        longest = min(self.model.config.max_length, self.config.data.length)
        return self.config.evaluation.context or longest

    def _validation_set(self, full: bool) -> list[Document]:
        documents = list(validation_documents(self.corpus))
        limit = self.config.evaluation.max_tokens
        return documents if limit is None or full else _first(documents, limit)

    def before_first_step(self, params: Tree, mesh: Mesh) -> "Pretraining":
        return self

    def write_metadata(self, run: Run) -> None:
        pass

    def check_targets(self) -> None:
        """Checks that the objective finds targets in the training and the validation set: rows or
        documents may be too short for it.

        Raises:
          UserError: there is no target in the first rows, or in the validation documents.
        """
        kind, feed = self.config.objective.kind, self.feed()
        for stage in self.config.data.all_stages():
            steps = -(-FIRST_ROWS // stage.batch_size)
            steps = steps if feed.steps is None else min(steps, feed.steps - stage.first_step)
            rows = range(min(stage.batch_size, FIRST_ROWS))
            numbers = range(stage.first_step, stage.first_step + steps)
            if numbers and not any(feed.read(step, rows)["weights"].any() for step in numbers):
                raise UserError(
                    f"objective {kind}",
                    f"finds nothing to predict in the first {steps * len(rows)} rows of "
                    f"{stage.length} tokens",
                    f"raise {stage.name}.length, or give longer documents",
                )
        documents = [] if self.config.objective.is_causal else self._validation_set(full=False)
        if documents and not has_targets(self.objective, documents, self._context):
            raise UserError(
                f"objective {kind}",
                f"finds nothing to predict in validation rows of {self._context} tokens",
                "raise evaluation.context, or data.validation_fraction, or give longer documents",
            )

    def _score_all(
        self, params: Tree, documents: list[Document], context: int, mesh: Mesh
    ) -> Totals:
        return score_documents(
            self.model,
            params,
            self.tokenizer,
            documents,
            context=context,
            stride=self.config.evaluation.stride,
            batch_size=self.config.evaluation.batch_size,
            mesh=mesh,
        )

    def _score_hidden(
        self, params: Tree, documents: list[Document], context: int, mesh: Mesh
    ) -> Totals:
        return score_hidden(
            self.model,
            params,
            self.objective,
            documents,
            context=context,
            batch_size=self.config.evaluation.batch_size,
            mesh=mesh,
        )

    def data_summary(self) -> dict[str, Any]:
        corpus = self.corpus
        heldout = [
            (len(document.tokens), document.bytes) for document in validation_documents(corpus)
        ]
        return {
            "train_documents": corpus.num_documents,
            "train_bytes": corpus.num_bytes,
            "train_tokens": corpus.num_tokens,
            "heldout_documents": len(heldout),
            "heldout_bytes": sum(size for _, size in heldout),
            "heldout_tokens": sum(count for count, _ in heldout),
        }

    def headline(self) -> str:
        return f"{short_count(self.corpus.num_tokens)} tokens of text"


def prepare_text(config: Config, run: Run) -> tuple[Tokenizer, Corpus]:
    """The run's tokenizer and tokenized corpus, from the cache if they are there.

    Raises:
      UserError: as `corpus.prepare`.
    """
    with terminal_progress() as progress:
        pieces = config.objective.control_pieces
        return prepare(config.data, config.tokenizer, run.tokenizer, progress, pieces)


def build_text(config: Config, progress: Progress, executor: Executor | None = None) -> Corpus:
    """The tokenized corpus of a config, prepared for its runs: in `data.store`, else in the cache.

    The tokenizer is that of the run folder or of the `init_from` run, if there is one.

    Args:
      config: of the runs.
      progress: see `Progress`.
      executor: where datatrove builds the shards; None: processes of this one do.

    Raises:
      UserError: as `corpus.prepare` and `build_store`; or there is no `init_from` run.
    """
    run = Run(Path(config.run_dir))
    if is_store(config.run_dir) and location(f"{config.run_dir}/config.json").is_file():
        run = Run.open(config.run_dir)
    folder = run.tokenizer
    if config.init_from is not None and not folder.is_dir():
        folder = Run.open(config.init_from).tokenizer
    pieces = config.objective.control_pieces
    existing = folder if folder.is_dir() else None
    build = prepare if config.data.store is None else build_store
    return build(config.data, config.tokenizer, existing, progress, pieces, executor)[1]


def share_text(config: Config, run: Run) -> None:
    """Prepares the shards of the text, each process its share; all processes call this.

    Where they do not share a cache, each prepares all of them.

    Raises:
      UserError: as `corpus.prepare`.
    """
    data, index, count = config.data, jax.process_index(), jax.process_count()
    local = local_processes()
    data = replace(data, workers=data.workers or max(1, cpus() // local))
    pieces = config.objective.control_pieces
    with terminal_progress() as progress:
        share = partial(share_shards, data, config.tokenizer, run.tokenizer, progress, pieces)
        if index == 0:
            share(slice(0))  # the tokenizer alone
        wait_for_all("tokenizer prepared")
        share(slice(index, None, count))
        wait_for_all("shards prepared")
        if share(slice(None)):
            log.warning(
                "%s: not shared by all processes; this one prepared the other shards too",
                cache_root(data.cache_dir),
            )
        wait_for_all("all shards prepared")


def _first(documents: list[Document], tokens: int) -> list[Document]:
    """The first documents that hold at least `tokens` tokens."""
    first: list[Document] = []
    for document in documents:
        if tokens <= 0:
            break
        first.append(document)
        tokens -= len(document.tokens)
    return first
