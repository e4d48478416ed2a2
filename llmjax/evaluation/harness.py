"""The command `harness`: tasks of EleutherAI's lm-evaluation-harness on a run.

Importing `llmjax.evaluation.harness_model` registers the model "llmjax" with the harness, so both
of these work:

    llmjax.harness("runs/x", ["arc_easy"])
    lm_eval.simple_evaluate(model="llmjax", model_args="run=runs/x", tasks=["arc_easy"])

Texts are tokenized as in the harness's adapter for Transformers: special tokens in a text are
parsed, and the tokenizer's prefix, such as BOS, is prepended.
"""

import contextlib
import functools
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.run.config.options import keyword_options
from llmjax.storage.cache_folders import write_file
from llmjax.storage.stores.path import local_path


@dataclass(frozen=True)
class HarnessOptions(LoadOptions):
    """Options of harness."""

    tasks: tuple[str, ...] = ()
    """Tasks, groups and tags of the harness: arc_easy,hellaswag or one by one."""
    include_path: str | None = None
    """A folder with additional task files."""
    limit: float | None = None
    """Number of examples of each task, from the first; below 1: a fraction of them."""
    fewshot: int | None = None
    """Few-shot examples before each question; none: as the task specifies."""
    chat: bool = False
    """Whether to apply the model's chat template."""
    samples: bool = False
    """Whether to keep every question and answer in the results."""
    out: str | None = None
    """JSON file for the results; none: RUN/harness.json on the command line."""
    max_length: int | None = None
    """Maximum tokens of context; none: the model's."""
    batch_size: int = 16
    """Rows per batch."""


@dataclass(frozen=True, eq=False)
class LoadedTasks:
    """Tasks of the harness with their data, which may be run any number of times.

    Attributes:
      manager: the harness's TaskManager.
      tasks: Task and Group objects of the harness.
      metrics: names of their metrics.
    """

    manager: Any
    tasks: list[Any]
    metrics: frozenset[str]


@keyword_options("tasks")
def harness(run: str | PathLike[str] | LanguageModel, options: HarnessOptions) -> dict[str, Any]:
    """Run tasks of the harness on a run.

    Args:
      run: a run folder, or a loaded model.
      options: fields of HarnessOptions, also as keywords.

    Returns:
      The result of lm_eval.simple_evaluate.

    Raises:
      UserError: no such run or task; a model without decoder; a limit or a number of few-shot
        examples out of range.
    """
    out = None if options.out is None else local_path(options.out)
    tasks = load_tasks(options)
    results = run_tasks(loaded(run, options), tasks, options)
    if out is not None:
        text = json.dumps(results, indent=1, default=str, ensure_ascii=False)
        write_file(out, text.encode())
    return results


def load_tasks(options: HarnessOptions) -> LoadedTasks:
    """Load the tasks that the options name, with their data.

    Raises:
      UserError: a task is unknown or its data cannot be read; a limit or a number of few-shot
        examples is out of range; the harness is not installed.
    """
    limit, fewshot = options.limit, options.fewshot
    if limit is not None and not 0 < limit < math.inf:
        raise UserError(f"limit {limit}", "is not positive")
    if fewshot is not None and fewshot < 0:
        raise UserError(f"fewshot {fewshot}", "is negative")
    names = [name for word in options.tasks for name in word.split(",") if name]
    # A folder of the user's may have changed since.
    folder = options.include_path
    manager = _index() if folder is None else _index.__wrapped__(str(folder))
    for name in names:
        if not manager.match_tasks([name]) and not Path(name).is_file():
            raise UserError(f"task {name}", "is unknown to the harness", _suggestion(name, manager))
    try:
        found = manager.load(names)
    except (ImportError, OSError, ValueError) as error:
        reason = f"cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}"
        raise UserError(f"task {', '.join(names)}", reason) from error
    tasks, groups = found["tasks"].values(), found["groups"].values()
    for task in tasks:
        # The harness never changes a task's 0.
        if fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config("num_fewshot", fewshot)
    inner = {name for group in groups for name in group.child_names}
    inner |= {task.task_name for group in groups for task in group.get_all_tasks()}
    top = [group for group in groups if group.name not in inner]
    top += [task for task in tasks if task.task_name not in inner]
    metrics = (name for task in tasks for name in task.higher_is_better())
    return LoadedTasks(manager, top, frozenset(metrics))


@functools.cache
def _index(include_path: str | None = None) -> Any:
    """The harness's index of tasks, which takes seconds to make.

    Raises:
      UserError: the harness is not installed.
    """
    import llmjax.evaluation.harness_model  # noqa: F401  # isort: skip
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def run_tasks(
    lm: LanguageModel, tasks: LoadedTasks, options: HarnessOptions, *, quiet: bool = False
) -> dict[str, Any]:
    """Run loaded tasks on a model; see `harness`.

    Args:
      lm: the model.
      tasks: of `load_tasks`, with the same options.
      options: of the harness.
      quiet: no progress bars and no further processes: standard errors that the harness takes from
        100,000 resamples in all cores are then of 100.
    """
    from llmjax.evaluation.harness_model import HarnessModel  # isort: skip
    from lm_eval.evaluator import simple_evaluate

    model = HarnessModel(
        lm, batch_size=options.batch_size, max_length=options.max_length, quiet=quiet
    )
    with _quiet() if quiet else contextlib.nullcontext():
        results: dict[str, Any] = simple_evaluate(
            model=model,
            tasks=tasks.tasks,
            limit=options.limit,
            batch_size=model.batch_size,
            bootstrap_iters=100 if quiet else 100_000,
            apply_chat_template=options.chat,
            log_samples=options.samples,
            task_manager=tasks.manager,
            torch_random_seed=None,  # avoids importing torch
        )
    results["config"] |= {"model": "llmjax", "model_args": f"run={lm.config.run_dir}"}
    return results


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the harness from drawing bars, printing, and starting processes, for which it has no
    options."""
    from lm_eval.api import task as module

    name, bar = "DISABLE_MULTIPROC", module.tqdm
    before = os.environ.get(name)
    os.environ[name] = "1"
    module.tqdm = functools.partial(bar, disable=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        module.tqdm = bar
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def table(results: dict[str, Any]) -> str:
    """Format results as the harness's table."""
    from lm_eval import utils

    tables = [utils.make_table(results)]
    if results.get("groups"):
        tables.append(utils.make_table(results, "groups"))
    return "\n".join(tables)


def _suggestion(name: str, manager: Any) -> str:
    from difflib import get_close_matches

    matches = get_close_matches(name, manager.all_tasks, n=1, cutoff=0.6)
    return f"did you mean {matches[0]}?" if matches else "name its folder with --include-path"
