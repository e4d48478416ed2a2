"""`llmjax train`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

from llmjax.cli.command import Call, Command, Output, Overrides
from llmjax.metrics.names import display_name, display_value, task_metrics
from llmjax.parallel.memory import TRAINING
from llmjax.run.config.build import plain
from llmjax.run.config.checks import validate
from llmjax.run.config.files import load_config_file, presets
from llmjax.run.config.overrides import HELP
from llmjax.run.config.schema import Config
from llmjax.run.config.source import to_python
from llmjax.run.folder import Run
from llmjax.scaling.dial import at_depth
from llmjax.training.train import train

TEXT_METRICS = ("step", "loss", "bits_per_byte", "accuracy", "heldout_tokens", "heldout_bytes")

ALIASES = {
    "lr": "optimizer.learning-rate",
    "learning-rate": "optimizer.learning-rate",
    "batch-size": "data.batch-size",
    "length": "data.length",
    "sources": "data.sources",
}
SHOWN = tuple(
    """run_dir steps epochs depth init_from data.sources data.batch_size data.length tokenizer
    tokenizer.vocab_size model.d_model model.num_decoder_layers model.num_encoder_layers
    model.num_heads optimizer optimizer.learning_rate optimizer.schedule.warmup_steps compute.dtype
    compute.remat mesh.fsdp checkpoint.every evaluation.every samples.every log.every
    seed""".split()
)
"""Fields used most, in the order of the help."""


@dataclass(frozen=True)
class TrainOptions(Config):
    """The config of a run, and what sets many of its fields."""

    depth: int | None = None
    """Layers; width, heads, MLP, batch, learning rate, weight decay and steps follow from CONFIG's,
    by the rules of docs/scaling.md, and any field can still be set. None: as in CONFIG."""

    @property
    def config(self) -> Config:
        """The config alone."""
        names = (item.name for item in fields(Config))
        return Config(**{name: getattr(self, name) for name in names})


def run(call: Call[TrainOptions]) -> Output | None:
    """Trains; prints the run folder and its latest validation metrics."""
    config = call.options.config
    if "print-config" in call.flags:
        return Output({"config": plain(config)}, to_python(config).rstrip("\n"))
    import jax

    result = summary(train(config, call.program))
    return Output(result, in_words(result)) if jax.process_index() == 0 else None


def summary(run: Run) -> dict[str, Any]:
    """A run's folder, newest checkpoint and latest validation metrics."""
    steps = run.steps()
    result: dict[str, Any] = {"run": run.address, "step": steps[-1] if steps else 0}
    for record in run.records():
        if record.get("kind") == "eval":
            tasks = task_metrics(record)
            names = ("step", *chain(*tasks.values()), "loss") if tasks else TEXT_METRICS
            result["heldout"] = {name: record[name] for name in names if name in record}
    return result


def in_words(result: Mapping[str, Any]) -> str:
    """A summary as text: a line, and one for each task if there are several."""
    line = f"{result['run']} at step {result['step']}"
    if not (metrics := result.get("heldout")):
        return line
    if "bits_per_byte" not in metrics:
        return _tasks_in_words(line, metrics)
    bits, loss = metrics["bits_per_byte"], metrics.get("loss")
    if loss is None or (bits is None and metrics.get("accuracy") is None):
        return line
    if bits is None:
        accuracy = f"validation accuracy {metrics['accuracy']:.2%}"
        return f"{line}: {accuracy}, {loss:.4f} nats per hidden token"
    return f"{line}: validation {bits:.4f} bits per byte, {loss:.4f} nats per token"


def _tasks_in_words(line: str, metrics: Mapping[str, Any]) -> str:
    """The metrics of tasks, by task if there are several; n/a if not finite."""
    several = any("." in name for name in metrics)
    tasks: dict[str, list[str]] = {}
    for name, value in metrics.items():
        task = name.rpartition(".")[0]
        if name == "step" or (name == "loss" and several):
            continue
        text = "n/a" if value is None else display_value(name, value)
        tasks.setdefault(task, []).append(f"{display_name(name)} {text}")
    if len(tasks) == 1:
        return f"{line}, on validation examples: {', '.join(next(iter(tasks.values())))}"
    lines = [f"  {task}: {', '.join(texts)}" for task, texts in tasks.items()]
    return "\n".join([f"{line}, on validation examples:", *lines])


def _expand(options: TrainOptions, overrides: Overrides) -> tuple[TrainOptions, Overrides]:
    """Replaces the model by that of the preset that `--model` names, and applies `--depth`."""
    for change in overrides:
        if change.path == ("model",) and len(change.words) == 1:
            preset = load_config_file(change.words[0])
            options = replace(options, model=preset.model, compute=preset.compute)
            overrides = tuple(other for other in overrides if other is not change)
    for change in overrides:
        if change.path == ("depth",) and len(change.words) == 1 and change.words[0].isdecimal():
            options = _options(at_depth(options.config, int(change.words[0])))
    return options, overrides


def _options(config: Config) -> TrainOptions:
    return TrainOptions(**vars(config))


def _defaults(name: str) -> TrainOptions:
    return _options(load_config_file(name))


def _finish(options: TrainOptions, flags: frozenset[str]) -> TrainOptions:
    """Applies --profile, and validates the config."""
    config = options.config
    if "profile" in flags and not config.log.profile:
        config = replace(config, log=replace(config.log, profile=5))
    return _options(validate(config))


TRAIN = Command(
    about="Trains a model, or resumes a run. CONFIG is a Python file with a function config() -> "
    f"llmjax.Config; or the name of a preset: {', '.join(presets())}; or a run folder, trained or "
    "imported. Every field can be set here by its dotted name; `llmjax train CONFIG --help all` "
    "lists them with CONFIG's values. Ctrl-C and SIGTERM finish the step, save, and exit with 75; "
    "the same command then resumes. A second signal stops without saving (exit code 130).",
    positionals=("CONFIG",),
    usage="[--field value ...]",
    options=TrainOptions,
    run=run,
    flags={
        "print-config": "Print the config as a Python file that makes it, and do not train.",
        "profile": "Trace 5 steps into RUN/profile, for XProf or TensorBoard; --log.profile N "
        "traces N.",
    },
    notes=HELP,
    shown=SHOWN,
    aliases=ALIASES,
    expand=_expand,
    defaults=_defaults,
    validated=True,
    finish=_finish,
    compiles=False,
    memory=TRAINING,
)
