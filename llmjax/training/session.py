"""What a run works with: its folder, workload, model, devices and optimizer, all checked."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from llmjax.data.objectives.vocabulary import make_objective
from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.completions import check_prompts
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.flops import flops_per_token
from llmjax.model.model import Model
from llmjax.optimizers.optimizer import Optimizer, make_optimizer
from llmjax.optimizers.trainable import TrainHeads, lr_multipliers, trainable_mask
from llmjax.parallel.mesh import check_divides, make_mesh
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.run.checkpoint.reading import wait_for_all
from llmjax.run.config.build import ConfigError
from llmjax.run.config.schema import Config
from llmjax.run.environment import memory
from llmjax.run.folder import Run
from llmjax.state import TrainState, Tree, split
from llmjax.tasks.heads import Network
from llmjax.tasks.split import read_rows, texts_of
from llmjax.tasks.task import TaskContext, network_of
from llmjax.training.finetuning import (
    Finetuning,
    prepare_tasks,
    with_stored_references,
    with_template,
)
from llmjax.training.initialization import take_tokenizer
from llmjax.training.pretraining import Pretraining, prepare_text
from llmjax.training.workload import Workload


@dataclass(frozen=True)
class Session:
    """One start of a run: everything that stays as it is."""

    config: Config
    run: Run
    tokenizer: Tokenizer
    workload: Workload
    network: Network
    mesh: Mesh
    optimizer: Optimizer
    trainable: Tree
    """The tree of bools that says which parameters are trained."""
    steps: int
    """Steps of the whole run: as configured, or what its epochs hold."""

    @property
    def model(self) -> Model:
        """The model, without heads."""
        return self.network.model

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return jax.process_index() == 0

    @property
    def is_partial(self) -> bool:
        """Whether some parameters are frozen."""
        return not all(jax.tree.leaves(self.trainable))

    @property
    def flops_per_token(self) -> float:
        """Model FLOPs, forward and backward; the mean of both where an encoder and a decoder read
        tokens (as if they read equally many)."""
        config, tune = self.model.config, self.config.tune
        readers = 2 if config.is_encoder_decoder else 1
        flops = flops_per_token(
            config,
            self.config.data.length,
            unembeds=self.workload.has_lm_head,
            through=not isinstance(tune, TrainHeads),
        )
        return flops / readers

    def progress(self, step: int) -> TrainProgress:
        """Where the run stands before batch `step`, nothing counted yet."""
        data = self.config.data
        return TrainProgress(
            step=step,
            seed=self.config.seed,
            batch_size=data.batch_size,
            length=data.length,
            corpus=self.workload.fingerprint,
            epoch=step / max(self.workload.steps_per_epoch, 1e-9),
        )

    def check_same_batches(self, progress: TrainProgress) -> None:
        """Checks that batch `progress.step` is the one that would have come next then.

        Raises:
          UserError: the text, its tokens or the batches' shape are others.
        """
        here = self.progress(progress.step)
        for name in ("seed", "batch_size", "length", "corpus"):
            then, now = getattr(progress, name), getattr(here, name)
            if then != now:
                raise UserError(
                    self.run.folder,
                    f"was trained on another {name} ({then}) than this one ({now})",
                    "restore the text as it was, or choose another --run-dir",
                )


def open_session(config: Config, run: Run) -> Session:
    """Prepares the workload, and checks model and mesh against each other.

    Raises:
      UserError: the data cannot be used, or sizes do not suit each other or the devices.
    """
    mesh = make_mesh(config.mesh)
    if jax.process_index() == 0:
        take_tokenizer(config, run)
        opened = _open_workload(config, run)
    wait_for_all("text prepared")  # the other processes then find it in the cache
    tokenizer, workload, network = (
        opened if jax.process_index() == 0 else _open_workload(config, run)
    )
    if config.samples.every:
        prompts, decoding = config.samples.prompts, config.samples.decoding
        check_prompts(network.model, tokenizer, prompts, decoding)
    parts = config.optimizer.accumulate
    name = "the batch" if parts == 1 else "a part of the batch"
    for spec in workload.feed().specs:
        for array in spec.values():  # the model splits what is split by length further
            split_by = ["residual" if axis == "length" else axis for axis in array.axes]
            check_divides(name, (array.shape[0] // parts, *array.shape[1:]), split_by, mesh)
    steps = _run_length(config, workload)
    axes = network.logical_axes()
    rates = lr_multipliers(config.tune, network.model.config, network.abstract_params())
    learning = trainable_mask(rates)
    own_axes, own_rates = split(axes, learning)[0], split(rates, learning)[0]
    optimizer = make_optimizer(config.optimizer, steps, own_axes, own_rates)
    return Session(config, run, tokenizer, workload, network, mesh, optimizer, learning, steps)


def _open_workload(config: Config, run: Run) -> tuple[Tokenizer, Workload, Network]:
    """The tokenizer, the workload, and the network that is trained."""
    if not config.tasks:
        tokenizer, corpus = prepare_text(config, run)
        model = Model(resolve(config.model, tokenizer.vocab_size), config.compute)
        encodes = model.config.is_encoder_decoder
        objective = make_objective(config.objective, tokenizer, is_encoder_decoder=encodes)
        workload = Pretraining(config, tokenizer, corpus, objective, model)
        workload.check_targets()
        return tokenizer, workload, Network(model)
    rows = [read_rows(task) for task in config.tasks]
    tokenizer = _task_tokenizer(config, run, [train_rows for train_rows, _ in rows])
    tokenizer = with_template(tokenizer, config, run)
    model = Model(resolve(config.model, tokenizer.vocab_size), config.compute)
    context = TaskContext(tokenizer, model.config, config.data.length)
    tasks = with_stored_references(prepare_tasks(config, context, rows), run)
    network = network_of(model, [part.task for part in tasks])
    return tokenizer, Finetuning(config, model, tasks), network


def _task_tokenizer(config: Config, run: Run, rows: Sequence[Sequence[Row]]) -> Tokenizer:
    """The tokenizer of the run, or one trained on the training set."""
    if run.tokenizer.is_dir():
        return load_tokenizer(run.tokenizer)
    tokenizer = config.tokenizer.open()
    if tokenizer is None:
        texts = itertools.chain.from_iterable(map(texts_of, config.tasks, rows))
        tokenizer = config.tokenizer.train(texts)
    tokenizer.save(run.tokenizer)
    return tokenizer


def _run_length(config: Config, workload: Workload) -> int:
    epoch = workload.steps_per_epoch
    wanted = config.steps if config.epochs is None else max(1, round(config.epochs * epoch))
    if config.epochs is not None and (problems := config.optimizer.problems(wanted)):
        raise ConfigError([f"{one} ({config.epochs:g} epochs are {wanted})" for one in problems])
    limit = workload.feed().steps
    if limit is None or wanted <= limit:
        return wanted
    if not workload.is_finite:
        raise UserError(
            f"steps {wanted}",
            f"the text is exhausted after {limit}, and data.on_exhaustion is error",
            f"set steps to {limit}, add text, or let it stop or repeat",
        )
    return limit


def check_memory(state: TrainState, mesh: Mesh) -> None:
    """Checks that parameters, their gradients and the optimizer's state fit the devices.

    Args:
      state: shapes, dtypes and shardings.
      mesh: the devices; those of a CPU share the machine's memory.

    Raises:
      UserError: they take more memory than there is.
    """
    needed = _bytes((state.params, state.params, state.opt_state))
    available = _available(mesh)
    if available is not None and needed > available:
        raise UserError(
            "model",
            f"parameters, gradients and the optimizer's state take {_gib(needed)} on each device, "
            f"which has {_gib(available)}",
            "make the model smaller (d_model, layers, vocab_size), or split it over more devices "
            "(mesh.fsdp)",
        )


def _bytes(tree: object) -> int:
    """Bytes of a tree on one device: those of a shard of each leaf."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _available(mesh: Mesh) -> int | None:
    """Bytes of one device's memory; None where nobody can tell."""
    devices = [one for one in mesh.devices.flat if one.process_index == jax.process_index()]
    if devices[0].platform == "cpu":
        total = memory()
        return None if total is None else total // len(devices)
    stats = devices[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
