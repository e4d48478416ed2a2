"""`llmjax train`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from llmjax.cli.arguments import FLAGS, Words, split
from llmjax.cli.help import help_text
from llmjax.cli.verb import checked, print_json
from llmjax.metrics.names import in_words as name_in_words
from llmjax.metrics.names import task_metrics, value_in_words
from llmjax.run.config.checks import validate
from llmjax.run.config.files import load_config_file, presets
from llmjax.run.config.overrides import HELP
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.storage.json_documents import json_lines

USAGE = "llmjax train CONFIG [--field value ...]"
PROFILE = "profile"
FIGURES = ("step", "loss", "bits_per_byte", "accuracy", "heldout_tokens", "heldout_bytes")
TRAIN_FLAGS = FLAGS | {
    PROFILE: "Trace 5 steps into RUN/profile, for XProf or TensorBoard; --log.profile N traces N.",
}
ABOUT = (
    "Trains a model, or goes on where its run folder stands. CONFIG is a Python file with a "
    "function config() -> llmjax.Config; or the name of a preset: {presets}; or a run folder, "
    "trained or imported, which goes on. Every field can be set here by its dotted name; `llmjax "
    "train CONFIG --help` lists them with CONFIG's values. Ctrl-C and SIGTERM finish the step, "
    "save, and exit with 75; the same command goes on. A second one stops without saving (130)."
)


def main(argv: Sequence[str]) -> int:
    """Trains; prints the run folder and its last held-out figures, or JSON."""
    words = split(argv, Config, TRAIN_FLAGS)
    if "help" in words.flags:
        config = load_config_file(words.positionals[0]) if words.positionals else Config()
        about = ABOUT.format(presets=", ".join(presets()))
        print(help_text(USAGE, about, TRAIN_FLAGS, config, HELP), end="")
        return 0
    config = resolve(words)
    import jax

    from llmjax.training import train

    run = Run(train(config))
    if jax.process_index() == 0:
        found = summary(run)
        if "json" in words.flags:
            print_json(found)
        else:
            print(in_words(found))
    return 0


def summary(run: Run) -> dict[str, Any]:
    """Where a run stands: its folder, its newest checkpoint, its last held-out figures."""
    steps = run.steps()
    found: dict[str, Any] = {"run": str(run.folder), "step": steps[-1] if steps else 0}
    if run.metrics.is_file():
        for _, record in json_lines(run.metrics):
            if isinstance(record, dict) and record.get("kind") == "eval":
                own = task_metrics(record)
                names = ("step", *chain(*own.values()), "loss") if own else FIGURES
                found["heldout"] = {name: record[name] for name in names if name in record}
    return found


def in_words(found: Mapping[str, Any]) -> str:
    """A summary as a line for a person; each task's figures on a line of their own."""
    line = f"{found['run']} at step {found['step']}"
    if not (heldout := found.get("heldout")):
        return line
    if "bits_per_byte" not in heldout:
        return _tasks_in_words(line, heldout)
    bits, loss = heldout["bits_per_byte"], heldout.get("loss")
    if loss is None or (bits is None and heldout.get("accuracy") is None):
        return line
    if bits is None:
        right = f"{heldout['accuracy']:.2%} of what is hidden of held-out text is told rightly"
        return f"{line}: {right} ({loss:.4f} nats per token)"
    return f"{line}: held-out text takes {bits:.4f} bits per byte ({loss:.4f} nats per token)"


def _tasks_in_words(line: str, heldout: Mapping[str, Any]) -> str:
    """The figures of tasks, by task where there are several; what is not finite is n/a."""
    tasks: dict[str, list[str]] = {}
    for name, value in heldout.items():
        task = name.rpartition(".")[0]
        if name == "step" or (name == "loss" and any("." in other for other in heldout)):
            continue
        told = "n/a" if value is None else value_in_words(name, value)
        tasks.setdefault(task, []).append(f"{name_in_words(name)} {told}")
    if len(tasks) == 1:
        return f"{line}, on held-out examples: {', '.join(next(iter(tasks.values())))}"
    lines = [f"  {task}: {', '.join(shown)}" for task, shown in tasks.items()]
    return "\n".join([f"{line}, on held-out examples:", *lines])


def resolve(words: Words) -> Config:
    """The config of a command line, checked; every mistake is told at once.

    Raises:
      UserError: the config file cannot be used.
      ConfigError: mistakes in the command line, or in the config that it makes.
    """
    config = load_config_file(words.positionals[0]) if words.positionals else Config()
    _, config = checked(words, ("CONFIG",), USAGE, config)
    if PROFILE in words.flags and not config.log.profile:
        config = replace(config, log=replace(config.log, profile=5))
    return validate(config)
