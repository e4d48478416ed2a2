"""The verb `harness`: tasks of EleutherAI's lm-evaluation-harness, its whole catalogue, on a run.

Importing this module registers the model "llmjax" with the harness, so both of these work:

    llmjax.harness("runs/x", ["arc_easy"])
    lm_eval.simple_evaluate(model="llmjax", model_args="run=runs/x", tasks=["arc_easy"])

Texts become tokens as in the harness's own adapter of Transformers' models: special tokens that a
text spells are read as such, and the tokenizer's prefix, such as BOS, stands before a text.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.evaluation.harness.adapter import HarnessModel
from llmjax.inference.language_model import LanguageModel
from llmjax.storage.cache_folders import write_file

__all__ = ["HarnessModel", "harness", "table"]


def harness(
    run: str | Path | LanguageModel,
    tasks: str | Sequence[str],
    *,
    include_path: str | Path | None = None,
    limit: float | None = None,
    fewshot: int | None = None,
    chat: bool = False,
    samples: bool = False,
    out: str | Path | None = None,
    **loading: Any,
) -> dict[str, Any]:
    """Runs tasks of the harness on a run.

    Args:
      run: a run folder, or a model in hand.
      tasks: names of the harness's tasks, groups and tags.
      include_path: a folder with more task files.
      limit: only so many examples of each task; below 1, that share of them.
      fewshot: solved examples before each question; None: as the task says.
      chat: whether questions are asked in the model's chat template.
      samples: whether every question and answer is kept among the results.
      out: a JSON file for the results.
      **loading: arguments of HarnessModel.

    Returns:
      What lm_eval.simple_evaluate returns.

    Raises:
      UserError: no such run, or no such task; a model that cannot be evaluated so; a limit or a
        number of examples that cannot be.
    """
    if limit is not None and not 0 < limit < math.inf:
        raise UserError(f"limit {limit}", "is not positive")
    if fewshot is not None and fewshot < 0:
        raise UserError(f"fewshot {fewshot}", "is negative")
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    names = [tasks] if isinstance(tasks, str) else list(tasks)
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    for name in names:
        if not manager.match_tasks([name]) and not Path(name).is_file():
            raise UserError(f"task {name}", "is unknown to the harness", _near(name, manager))
    model = HarnessModel(run, **loading)
    found: dict[str, Any] = simple_evaluate(
        model=model,
        tasks=names,
        num_fewshot=fewshot,
        limit=limit,
        batch_size=model.batch_size,
        apply_chat_template=chat,
        log_samples=samples,
        task_manager=manager,
        torch_random_seed=None,  # or it would be imported for that alone
    )
    found["config"] |= {"model": "llmjax", "model_args": f"run={model.lm.config.run_dir}"}
    if out is not None:
        text = json.dumps(found, indent=1, default=str, ensure_ascii=False)
        write_file(Path(out).expanduser(), text.encode())
    return found


def table(results: dict[str, Any]) -> str:
    """The harness's own table of results."""
    from lm_eval import utils

    tables = [utils.make_table(results)]
    if results.get("groups"):
        tables.append(utils.make_table(results, "groups"))
    return "\n".join(tables)


def _near(name: str, manager: Any) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, manager.all_tasks, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else "name its folder with --include-path"
