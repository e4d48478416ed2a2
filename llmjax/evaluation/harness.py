"""The command `harness`: tasks of EleutherAI's lm-evaluation-harness on a run.

Importing `llmjax.evaluation.harness_model` registers the model "llmjax" with the harness, so both
of these work:

    llmjax.harness("runs/x", ["arc_easy"])
    lm_eval.simple_evaluate(model="llmjax", model_args="run=runs/x", tasks=["arc_easy"])

Texts are tokenized as in the harness's adapter for Transformers: special tokens in a text are
parsed, and the tokenizer's prefix, such as BOS, is prepended.
"""

import json
import math
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
    limit, fewshot = options.limit, options.fewshot
    out = None if options.out is None else local_path(options.out)
    if limit is not None and not 0 < limit < math.inf:
        raise UserError(f"limit {limit}", "is not positive")
    if fewshot is not None and fewshot < 0:
        raise UserError(f"fewshot {fewshot}", "is negative")
    # Imports the harness, or raises UserError with how to install it.
    from llmjax.evaluation.harness_model import HarnessModel  # isort: skip
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    names = [name for word in options.tasks for name in word.split(",") if name]
    manager = TaskManager(include_path=options.include_path and str(options.include_path))
    for name in names:
        if not manager.match_tasks([name]) and not Path(name).is_file():
            raise UserError(f"task {name}", "is unknown to the harness", _suggestion(name, manager))
    model = HarnessModel(
        loaded(run, options), batch_size=options.batch_size, max_length=options.max_length
    )
    results: dict[str, Any] = simple_evaluate(
        model=model,
        tasks=names,
        num_fewshot=fewshot,
        limit=limit,
        batch_size=model.batch_size,
        apply_chat_template=options.chat,
        log_samples=options.samples,
        task_manager=manager,
        torch_random_seed=None,  # avoids importing torch
    )
    results["config"] |= {"model": "llmjax", "model_args": f"run={model.lm.config.run_dir}"}
    if out is not None:
        text = json.dumps(results, indent=1, default=str, ensure_ascii=False)
        write_file(out, text.encode())
    return results


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
