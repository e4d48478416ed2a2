"""Checks of a config beyond its types, and the fields that may change when a run resumes."""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

from llmjax.data.config import data_problems
from llmjax.data.stages import Stage, changed_stages, stage_problems, tokens_read
from llmjax.decoding.config import decoding_problems
from llmjax.errors import UserError
from llmjax.limits import MAX_BATCH_TOKENS, is_wild, number_problems
from llmjax.losses.loss import LossConfig
from llmjax.model.checks import problems as model_problems
from llmjax.model.compute import compute_problems
from llmjax.optimizers.parametrization import parametrization_problems
from llmjax.optimizers.spikes import spikes_problems
from llmjax.optimizers.trainable import trainable_problems
from llmjax.run.checkpoint.config import checkpoint_problems
from llmjax.run.config.build import ConfigError, build, plain
from llmjax.run.config.schema import Config
from llmjax.run.telemetry.config import log_problems
from llmjax.scoring.config import evaluation_problems
from llmjax.storage.stores.path import StorePath, location
from llmjax.tasks.config import name_of, task_problems

# Fields (with all below them; * is any index) that may differ when a run resumes. None of them
# changes a batch of the steps taken: the data.stages that began before must stay. compute, mesh and
# accumulate change the rounding of sums, and accumulate also the dropout masks; with another number
# of steps, the rest of the schedule follows the new total.
MAY_CHANGE = (
    "run_dir",
    "steps",
    "epochs",
    "mesh",
    "cpu_devices",
    "log",
    "checkpoint",
    "evaluation",
    "samples",
    "replay",
    "spikes",
    "max_skipped_steps",
    "compute",
    "optimizer.accumulate",
    "optimizer.moment_dtype",
    "data.cache_dir",
    "data.prefetch",
    "data.stages",
    "data.store",
    "data.store_cache_bytes",
    "data.workers",
    "tasks.*.no_answer_threshold",
    "tasks.*.beams",
    "tasks.*.bleu_tokenize",
)

# Fields that give a run parameters which an imported model lacks, or other initial ones.
ADDED = ("tasks", "init_from", "model.lora", "model.pooler", "model.moe")


def validate(config: Config) -> Config:
    """Checks types, ranges and combinations; reads, writes and computes nothing.

    What depends on devices or data (a mesh that does not fit, a corpus smaller than a batch) is
    checked when those are known.

    Returns:
      The config, with integers in float fields converted.

    Raises:
      ConfigError: all problems.
    """
    problems: list[str] = []
    typed = build(Config, config, "", problems)
    if not problems:
        problems += number_problems(typed)
    if typed and not is_wild(typed):
        problems += _problems(typed)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    assert isinstance(typed, Config)
    return typed


def _problems(config: Config) -> Iterator[str]:
    yield from _run_problems(config)
    # The vocabulary size is that of the tokenizer, which is not known yet.
    model = replace(config.model, vocab_size=config.model.vocab_size or 1)
    if config.init_from is not None and model.moe is not None:
        # The layers are those of the run it starts from, which `check_upcycling` knows.
        model = replace(model, moe=replace(model.moe, dense_layers=()))
    yield from (f"model: {problem}" for problem in model_problems(model))
    yield from (f"compute: {problem}" for problem in compute_problems(config.compute))
    yield from (f"tokenizer.{problem}" for problem in config.tokenizer.problems())
    yield from data_problems(config.data)
    steps = config.steps if config.epochs is None else sys.maxsize  # not known yet
    yield from config.optimizer.problems(steps)
    yield from parametrization_problems(config.parametrization, config.model, config.optimizer)
    yield from spikes_problems(config.spikes)
    yield from trainable_problems(config.trainable, config.model.lora is not None)
    yield from task_problems(config.tasks)
    yield from _loss_problems(config.loss)
    yield from checkpoint_problems(config.checkpoint)
    yield from evaluation_problems(config.evaluation)
    decoding = decoding_problems(config.samples.decoding)
    yield from (f"samples.decoding.{problem}" for problem in decoding)
    yield from log_problems(config.log)
    yield from _combination_problems(config)


def _run_problems(config: Config) -> Iterator[str]:
    if config.steps < 1:
        yield f"steps: {config.steps} is not positive"
    for name in ("seed", "max_skipped_steps", "cpu_devices"):
        if getattr(config, name) < 0:
            yield f"{name}: {getattr(config, name)} is negative"
    if config.seed >= 1 << 32:
        yield f"seed: {config.seed} is not below 2 ** 32"
    if config.epochs is not None and not 0 < config.epochs < 1e9:
        yield f"epochs: {config.epochs} is not a positive number"
    if config.samples.every < 0:
        yield f"samples.every: {config.samples.every} is negative"
    if config.replay.every < 0:
        yield f"replay.every: {config.replay.every} is negative"
    if config.samples.every and not config.samples.prompts:
        yield "samples.prompts: empty; give at least one, or samples.every 0"
    if not config.upcycling.noise >= 0:
        yield f"upcycling.noise: {config.upcycling.noise} is negative"
    if config.upcycling.noise and (config.init_from is None or config.model.moe is None):
        yield "upcycling.noise: it needs a dense run to start from (init_from) and model.moe"
    yield from _folder_problems(config.run_dir)
    yield from _local_problems("data.cache_dir", config.data.cache_dir)
    yield from _local_problems("checkpoint.local_dir", config.checkpoint.local_dir)


def _local_problems(name: str, folder: str | None) -> Iterator[str]:
    if folder is not None and "://" in folder:
        yield f"{name}: {folder} is an address; name a local folder"


def _folder_problems(run_dir: str) -> Iterator[str]:
    if not run_dir or "\0" in run_dir:
        yield f"run_dir: {run_dir!r} is not a folder name"
        return
    try:
        folder = location(run_dir)
    except UserError as error:
        yield f"run_dir: {error}"
        return
    if isinstance(folder, StorePath):
        return
    # Missing folders are created in the nearest parent that exists.
    for parent in (folder, *folder.absolute().parents):
        if parent.exists():
            if not parent.is_dir():
                yield f"run_dir: {parent} is a file, not a folder"
            elif not os.access(parent, os.W_OK | os.X_OK):
                yield f"run_dir: {parent} cannot be written to"
            return


def _loss_problems(loss: LossConfig) -> Iterator[str]:
    if not 0 <= loss.z_loss < math.inf:
        yield f"loss.z_loss: {loss.z_loss} is not a number from 0 up"
    if not 0 <= loss.label_smoothing < 1:
        yield f"loss.label_smoothing: {loss.label_smoothing} is not in [0, 1)"


def _combination_problems(config: Config) -> Iterator[str]:
    model, data = config.model, config.data
    if not any(stage_problems(data.stages, len(data.sources))):
        for stage in data.all_stages():
            yield from _stage_problems(stage, config)
        if data.max_tokens is not None and not config.tasks:
            yield from _max_tokens_problems(config)
    if data.length > model.max_length:
        yield f"data.length: {data.length} tokens, but model.max_length is {model.max_length}"
    if data.store is not None and config.tasks:
        yield "data.store: tasks train on examples, not on text; leave it out"
    if data.stages and config.tasks:
        yield "data.stages: tasks train on examples, whose batches do not change; leave it out"
    if data.stages and config.epochs is not None:
        yield "epochs: stages begin at steps; set steps instead, and epochs to none"
    context = config.evaluation.context
    if context is not None and context > model.max_length:
        yield f"evaluation.context: {context} tokens, but model.max_length is {model.max_length}"
    rows = config.evaluation.batch_size
    if rows * (context or data.length) > MAX_BATCH_TOKENS:
        yield (
            f"evaluation.batch_size: {rows} rows of {context or data.length} tokens are more than "
            f"the {MAX_BATCH_TOKENS} that a batch may have"
        )
    parts = config.optimizer.accumulate
    if parts > 0 and data.batch_size % parts:
        yield (
            f"optimizer.accumulate: the {data.batch_size} rows of data.batch_size do not divide "
            f"into {parts} parts"
        )
    layers = model.num_encoder_layers, model.num_decoder_layers
    # Tasks do not use the objective, and the model of init_from is not known yet.
    if not config.tasks:
        shape = (0, 0) if config.init_from else layers
        yield from config.objective.problems(*shape)
    if config.samples.every and not model.num_decoder_layers:
        yield "samples.every: an encoder-only model generates no text; set it to 0"
    if config.evaluation.tasks and not model.num_decoder_layers:
        yield "evaluation.tasks: an encoder-only model cannot be measured on them; leave them out"
    trained = {name_of(task) for task in config.tasks}
    for number, evaluated in enumerate(config.evaluation.tasks):
        if evaluated.metrics_name in trained:
            yield f"evaluation.tasks.{number}.name: {evaluated.metrics_name} is that of a task"
    if config.evaluation.stride and not config.objective.is_causal:
        yield "evaluation.stride: only causal models are scored in overlapping windows"
    if config.evaluation.every and data.validation_fraction == 0 and not config.tasks:
        yield "evaluation.every: no validation set (data.validation_fraction is 0); set it to 0"


def _max_tokens_problems(config: Config) -> Iterator[str]:
    """Whether more tokens are read than data.max_tokens."""
    data = config.data
    assert data.max_tokens is not None
    if config.epochs is not None:
        yield "epochs: data.max_tokens ends the text where a run of known steps does; set steps"
        return
    total = sum(source.weight for source in data.sources)
    read = tokens_read(data.all_stages(), config.steps)
    # Of a source of weight w, w / total of data.max_tokens is prepared.
    needed = max(
        math.ceil(tokens * total / data.sources[source].weight) for source, tokens in read.items()
    )
    if needed > data.max_tokens:
        yield (
            f"data.max_tokens: {data.max_tokens} tokens are prepared, and the run reads those of "
            f"{needed} in {config.steps} steps; raise it, or lower steps"
        )


def _stage_problems(stage: Stage, config: Config) -> Iterator[str]:
    """Problems of a stage with the rest of the config."""
    if stage.name == "data":
        return
    longest, parts = config.model.max_length, config.optimizer.accumulate
    if stage.length > longest:
        yield f"{stage.name}.length: {stage.length} tokens, but model.max_length is {longest}"
    if parts > 0 and stage.batch_size % parts:
        yield (
            f"{stage.name}.batch_size: {stage.batch_size} rows do not divide into the {parts} "
            "parts of optimizer.accumulate"
        )


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (old, new) of every field in which two configs (or parts of them) differ."""
    old, new = plain(old), plain(new)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new else {prefix: (old, new)}
    if old.keys() != new.keys():
        return {prefix: (old, new)}
    dot = f"{prefix}." if prefix else ""
    result: dict[str, tuple[Any, Any]] = {}
    for key in old:
        result |= differences(old[key], new[key], f"{dot}{key}")
    return result


MISSING = object()
"""The value of a field that a config does not have, as one of another kind of optimizer."""


def varying_fields(configs: Sequence[Config]) -> list[str]:
    """Dotted names of the fields in which configs differ from the first one, but for the folder."""
    names: dict[str, None] = {}
    for config in configs[1:]:
        names |= dict.fromkeys(differences(configs[0], config))
    names.pop("run_dir", None)
    return list(names)


def value_at(config: Any, name: str) -> Any:
    """The value at a dotted name of `differences`: of a part of several kinds, its kind; MISSING if
    there is no such field."""
    for part in name.split("."):
        if isinstance(config, tuple):
            is_index = part.isdecimal() and int(part) < len(config)
            config = config[int(part)] if is_index else MISSING
        else:
            config = getattr(config, part, MISSING)
    return getattr(config, "kind", config)


def added_parts(stored: Config, config: Config) -> list[str]:
    """Fields by which `config` adds to an imported model of config `stored`."""
    return [
        name
        for name, (_, new) in differences(stored, config).items()
        if new and any(f"{name}.".startswith(f"{field}.") for field in ADDED)
    ]


def blocking_differences(stored: Config, config: Config, step: int = 0) -> list[str]:
    """The differences, as text, that keep a run of `stored`, which has taken so many steps, from
    resuming with `config`."""
    changed = changed_stages(stored.data.all_stages(), config.data.all_stages(), step)
    return [
        f"{name} {old!r} -> {new!r}"
        for name, (old, new) in differences(stored, config).items()
        if not any(fnmatch(name, free) or name.startswith(f"{free}.") for free in MAY_CHANGE)
    ] + [change for change in changed if change.startswith("data.stages.")]
