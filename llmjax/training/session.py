"""A training session: config, run folder, workload, network, mesh and optimizer, checked."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import jax
from jax.sharding import Mesh

from llmjax.data.objectives.vocabulary import make_objective
from llmjax.data.stages import Stage
from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.completions import check_prompts
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel
from llmjax.model.checks import resolve
from llmjax.model.compute import check_quantization
from llmjax.model.flops import flops_per_token
from llmjax.model.model import Model
from llmjax.model.params import param_specs
from llmjax.model.stages import check_microbatches
from llmjax.optimizers.optimizer import Optimizer, make_optimizer
from llmjax.optimizers.parametrization import parameter_scales
from llmjax.optimizers.spikes import skip_spikes
from llmjax.optimizers.trainable import TrainHeads, lr_multipliers, trainable_mask
from llmjax.parallel.chips import chip_of
from llmjax.parallel.mesh import axis_size, check_divides, make_mesh
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.run.checkpoint.reading import process_0_first
from llmjax.run.config.build import ConfigError
from llmjax.run.config.schema import Config
from llmjax.run.environment import memory
from llmjax.run.folder import Run
from llmjax.state import TrainState, Tree, split
from llmjax.tasks.heads import Network
from llmjax.tasks.split import read_rows, texts_of
from llmjax.tasks.task import TaskContext, body, network_of
from llmjax.training.finetuning import (
    Finetuning,
    prepare_tasks,
    with_stored_references,
    with_template,
)
from llmjax.training.in_run_evaluation import InRunTask, open_tasks
from llmjax.training.initialization import take_tokenizer
from llmjax.training.pretraining import Pretraining, prepare_text, share_text
from llmjax.training.processes import share_with_all
from llmjax.training.workload import Workload


@dataclass(frozen=True)
class Session:
    """What stays constant from one start of a run to its stop."""

    config: Config
    run: Run
    tokenizer: Tokenizer
    workload: Workload
    network: Network
    mesh: Mesh
    optimizer: Optimizer
    trainable: Tree
    """A mask of the parameters that are trained."""
    steps: int
    """Steps of the run in all: as configured, or from its epochs."""
    evaluation_tasks: tuple[InRunTask, ...] = ()
    """What evaluation.tasks measures, read and checked."""

    @property
    def model(self) -> Model:
        """The model without task heads."""
        return self.network.model

    def language_model(self, params: Tree, step: int) -> LanguageModel:
        """The model with these parameters, as they are on the mesh."""
        return LanguageModel(self.model, body(params), self.tokenizer, self.config, self.mesh, step)

    @property
    def is_primary(self) -> bool:
        """Whether this is process 0, which writes the run folder."""
        return jax.process_index() == 0

    @property
    def is_partial(self) -> bool:
        """Whether some parameters are frozen."""
        return not all(jax.tree.leaves(self.trainable))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run, of which the first begins at step 0."""
        return self.config.data.all_stages()

    @cached_property
    def flops_by_stage(self) -> tuple[float, ...]:
        """Model FLOPs per token of each stage, forward and backward; of an encoder-decoder, as if
        half of the tokens were the encoder's and half the decoder's."""
        config, trainable = self.model.config, self.config.trainable
        stacks = 2 if config.is_encoder_decoder else 1
        flops = [
            flops_per_token(
                config,
                stage.length,
                lm_head=self.workload.has_lm_head,
                backward=not isinstance(trainable, TrainHeads),
            )
            for stage in self.stages
        ]
        return tuple(count / stacks for count in flops)

    def flops_per_token(self, batch: int) -> float:
        """Model FLOPs per token of a batch."""
        return self.flops_by_stage[bisect_right(self._first_steps, batch) - 1]

    @cached_property
    def _first_steps(self) -> list[int]:
        return [stage.first_step for stage in self.stages]

    def begin(self) -> TrainProgress:
        """The progress of a run that begins."""
        data = self.config.data
        return TrainProgress(
            step=0,
            seed=self.config.seed,
            batch_size=data.batch_size,
            length=data.length,
            corpus=self.workload.fingerprint,
        )

    def advanced(self, progress: TrainProgress, step: int) -> TrainProgress:
        """The progress after this step, with the epochs and stages that its batches have reached;
        totals stay as they are."""
        progress = replace(progress, step=step)
        epoch, stages = self.workload.epochs(progress.batch), self._stages_begun(progress.batch)
        return replace(progress, epoch=epoch, stages=stages)

    def _stages_begun(self, batch: int) -> tuple[str, ...]:
        """The configured stages that begin before this batch, as progress records them."""
        return tuple(
            str(stage) for stage in self.stages if stage.name != "data" and stage.first_step < batch
        )

    def within_data(self, progress: TrainProgress) -> "Session":
        """The session, ending with the data: that is earlier if batches are left out."""
        batches = self.workload.feed().steps
        if batches is None or not self.workload.is_finite:
            return self
        return replace(self, steps=min(self.steps, batches - progress.batches_left_out))

    def check_same_batches(self, progress: TrainProgress) -> None:
        """Checks that the stored progress belongs to the same sequence of batches.

        Raises:
          UserError: the text, its tokens or the batches' shape have changed.
        """
        current = self.advanced(replace(self.begin(), left_out=progress.left_out), progress.step)
        for name in ("seed", "batch_size", "length", "corpus"):
            old, new = getattr(progress, name), getattr(current, name)
            if old != new:
                raise UserError(
                    self.run.address,
                    f"was trained on another {name} ({old}) than this one ({new})",
                    "restore the text as it was, or choose another --run-dir",
                )
        trained = itertools.zip_longest(progress.stages, current.stages, fillvalue="absent")
        for index, (before, now) in enumerate(trained):
            if before != now:
                raise UserError(
                    self.run.address,
                    f"was trained with another data.stages.{index} ({before}) than this ({now})",
                    "leave the stages that have begun as they were, or choose another --run-dir",
                )


def open_session(config: Config, run: Run) -> Session:
    """Prepares the data, the model and the optimizer, and checks that they fit the mesh.

    Raises:
      UserError: the data cannot be used, or sizes do not fit each other or the devices.
    """
    mesh = make_mesh(config.mesh)
    _check_quantization(config, mesh)
    if jax.process_index() == 0:
        take_tokenizer(config, run)
    prepares_shards = config.data.is_sharded and config.data.store is None and not config.tasks
    if jax.process_count() > 1 and prepares_shards:
        share_with_all("tokenizer taken", run)
        share_text(config, run)
    tokenizer, workload, network = process_0_first("text prepared", lambda: _shared(config, run))
    if config.samples.every:
        prompts, decoding = config.samples.prompts, config.samples.decoding
        check_prompts(network.model, tokenizer, prompts, decoding)
    _check_batches(config, workload, mesh)
    evaluation_tasks = open_tasks(LanguageModel(network.model, {}, tokenizer, config, mesh))
    steps = _run_length(config, workload)
    axes = network.logical_axes()
    rates = lr_multipliers(config.trainable, network.model.config, network.abstract_params())
    trainable = trainable_mask(rates)
    trained_axes, trained_rates = split(axes, trainable)[0], split(rates, trainable)[0]
    optimizer = make_optimizer(
        config.optimizer,
        steps,
        trained_axes,
        trained_rates,
        bias_update_rate=network.model.config.bias_update_rate,
        scales=parameter_scales(
            config.parametrization, network.model.config, config.optimizer, axes
        ),
    )
    optimizer = skip_spikes(optimizer, config.spikes)
    return Session(
        config,
        run,
        tokenizer,
        workload,
        network,
        mesh,
        optimizer,
        trainable,
        steps,
        evaluation_tasks,
    )


def _check_quantization(config: Config, mesh: Mesh) -> None:
    """Checks the chip and the names of projections, before text is prepared."""
    check_quantization(config.compute, chip_of(mesh.devices.flat[0].device_kind))
    if config.compute.quantized_params:
        model = replace(config.model, vocab_size=config.model.vocab_size or 128)
        param_specs(model, config.compute)


def _shared(config: Config, run: Run) -> tuple[Tokenizer, Workload, Network]:
    """Opens the workload: process 0 publishes what it prepared in the run, and the others, later,
    find it."""
    run.refresh()
    opened = _open_workload(config, run)
    if jax.process_index() == 0:
        run.publish()
    return opened


def _check_batches(config: Config, workload: Workload, mesh: Mesh) -> None:
    """Checks that the batches of every stage, and their parts, divide over the mesh."""
    parts = config.optimizer.accumulate
    part = "the batch" if parts == 1 else "a part of the batch"
    first: dict[tuple[int, int], str] = {}
    for stage in config.data.all_stages():
        first.setdefault(stage.shape, stage.name)
    names = list(first.values())
    for index, spec in enumerate(workload.feed().specs):  # of each shape, or of each task
        name = f"{part} of {names[index]}" if config.data.stages else part
        for array in spec.values():  # the residual stream splits the length further
            split_by = ["residual" if axis == "length" else axis for axis in array.axes]
            check_divides(name, (array.shape[0] // parts, *array.shape[1:]), split_by, mesh)
            stages = axis_size(mesh, "layers")
            rows = array.shape[0] // parts // (axis_size(mesh, "batch") // stages)
            check_microbatches(config.compute, stages, rows)


def _open_workload(config: Config, run: Run) -> tuple[Tokenizer, Workload, Network]:
    """The tokenizer, the workload, and the network to train."""
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
    """The run's tokenizer; if it has none yet, the config's, trained on the tasks' texts if need
    be."""
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
    steps = config.steps if config.epochs is None else max(1, round(config.epochs * epoch))
    if config.epochs is not None and (problems := config.optimizer.problems(steps)):
        epochs = f"{config.epochs:g} epochs are {steps}"
        raise ConfigError([f"{problem} ({epochs})" for problem in problems])
    limit = workload.feed().steps
    if limit is None or steps <= limit:
        return steps
    if not workload.is_finite:
        raise UserError(
            f"steps {steps}",
            f"the text is exhausted after {limit}, and data.on_exhaustion is error",
            f"set steps to {limit}, add text, or let it stop or repeat",
        )
    return limit


def check_memory(state: TrainState, mesh: Mesh, copies: int = 0) -> None:
    """Checks that parameters, gradients and optimizer state fit the devices.

    Args:
      state: shapes, dtypes and shardings.
      mesh: the devices; CPU devices share the machine's memory.
      copies: further copies of the state, as replay needs one.

    Raises:
      UserError: they need more memory than there is.
    """
    needed = _bytes((state.params, state.params, state.opt_state)) + copies * _bytes(state)
    available = _available(mesh)
    if available is not None and needed > available:
        raise UserError(
            "model",
            f"parameters, gradients and the optimizer's state take {_gib(needed)} on each device"
            f"{' with the copy for replay' if copies else ''}, which has {_gib(available)}",
            "make the model smaller (d_model, layers, vocab_size), or split it over more devices "
            "(mesh.fsdp)",
        )


def _bytes(tree: object) -> int:
    """Bytes of a tree on one device: a shard of each leaf."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _available(mesh: Mesh) -> int | None:
    """Bytes of one device's memory; None if unknown."""
    process = jax.process_index()
    devices = [device for device in mesh.devices.flat if device.process_index == process]
    if devices[0].platform == "cpu":
        total = memory()
        return None if total is None else total // len(devices)
    stats = devices[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
