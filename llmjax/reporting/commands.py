"""The commands that go on from a run, as they can be pasted into a shell."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmjax.convert.hf.classes import choose_task, export_form
from llmjax.convert.params import without_adapters
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.errors import UserError
from llmjax.inference.fill_mask import mask_name
from llmjax.model.checks import resolve
from llmjax.reporting.records import History, is_finished
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.origin import ORIGIN, read_origin
from llmjax.run.parameters import run_tasks
from llmjax.storage.stores.mirror import address_of
from llmjax.tasks.config import TaskConfig, name_of


@dataclass(frozen=True)
class ShellCommand:
    """A command line, quoted for a shell, and what it is for."""

    purpose: str
    line: str


def shell_commands(run: Run, config: Config, history: History) -> list[ShellCommand]:
    """Returns the commands for this kind of run that work in its present state.

    Paths are those by which the run was named, so that relative ones need the same current folder.
    """
    is_import = (run.folder / ORIGIN).is_file() and not history.train
    commands = [] if is_import else [*_training(run, config, history)]
    return [*commands, *(_using(run, config) if run.steps() else ())]


def _training(run: Run, config: Config, history: History) -> Iterator[ShellCommand]:
    name = _path(address_of(run.folder))
    if not history.train:
        yield _command("Train it", "train", name)
        return
    yield _command("Train it again, in a new folder", "train", name, "--run-dir", f"{name}-again")
    if not is_finished(config, history):
        yield _command("Resume it", "train", name)
    elif config.epochs is None:
        yield _command("Train it twice as long", "train", name, "--steps", str(2 * config.steps))
    else:
        epochs = f"{2 * config.epochs:g}"
        yield _command("Train it twice as long", "train", name, "--epochs", epochs)


def _using(run: Run, config: Config) -> Iterator[ShellCommand]:
    name = _path(address_of(run.folder))
    if config.tasks:
        several = len(config.tasks) > 1
        for task in config.tasks:
            choice = ("--task", name_of(task)) if several else ()
            yield _prediction(name, task, choice)
    elif config.objective.kind == "masked":
        if (mask := _mask(run)) is not None:
            text = f"A text with a {mask} token"
            yield _command("Fill a mask", "fill-mask", name, "--text", text)
    elif config.model.num_decoder_layers:
        prompt = next(iter(config.samples.prompts), "The")
        yield _command("Generate text", "generate", name, f"--prompt={prompt}")
    yield _command("Evaluate on the validation set", "evaluate", name)
    yield from _export(run, config)


def _prediction(name: str, task: TaskConfig, choice: Sequence[str]) -> ShellCommand:
    if not task.input_columns:  # conversations
        return _command("Chat", "chat", name)
    if task.kind == "similarity":
        return _command("Embed a text", "embed", name, "--text", "A text")
    texts = [word for column in task.input_columns for word in ("--text", f"A {column}")]
    return _command(f"Predict: {name_of(task)}", "predict", name, *texts, *choice)


def _mask(run: Run) -> str | None:
    """Returns the mask token of the run's tokenizer, if it has one."""
    try:
        tokenizer = load_tokenizer(run.tokenizer)
    except UserError:
        return None
    return None if tokenizer.mask_id is None else mask_name(tokenizer)


def _export(run: Run, config: Config) -> Iterator[ShellCommand]:
    """Yields the export for Transformers if that has a class for the model, else StableHLO."""
    name, out = _path(address_of(run.folder)), _path(f"exports/{run.folder.resolve().name}")
    task = ("--task", name_of(config.tasks[0])) if len(config.tasks) > 1 else ()
    try:
        tokenizer = load_tokenizer(run.tokenizer)
        shape, origin = resolve(config.model, tokenizer.vocab_size), read_origin(run.folder)
        tasks = run_tasks(run, config, tokenizer, shape)
        chosen = choose_task(tasks, task[1] if task else None)
        export_form(without_adapters(shape), chosen, origin.model_type if origin else None)
    except UserError:
        yield _command("Export as programs for JAX", "export", name, out, "--to", "stablehlo")
    else:
        yield _command("Export for Transformers", "export", name, out, *task)


def _command(purpose: str, *words: str) -> ShellCommand:
    return ShellCommand(purpose, shlex.join(["llmjax", *words]))


def _path(path: str) -> str:
    """Returns a path that is not mistaken for an option."""
    return f"./{path}" if path.startswith("-") else path
