"""One run in lm-evaluation-harness twice: as it is, and exported and read by Transformers.

Command: python -m benchmarks.lm_eval RUN --data FILE.jsonl [--limit N] [--prompt "...{}..."]
RUN is a run folder of a decoder, for instance from `llmjax import sample:smollm2-135m RUN`; each
line of FILE is {"question": ..., "choices": [...], "answer": number}. Three tasks are made of it:
multiple choice, the likelihood of the questions as texts, and twelve tokens written after each
prompt. Both models compute in float32 on the CPU. Printed: accuracies, the largest difference of a
log-likelihood, equal texts, and seconds; JSON last. To compare: log-likelihoods within 0.001 and
equal accuracy.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.exporting import export
from llmjax.evaluation.harness_model import HarnessModel
from llmjax.inference.language_model import load
from llmjax.parallel.compilation import enable_compilation_cache

TASKS = ("choice", "rolling", "written")
COMMON = """task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
num_fewshot: 0
"""
KINDS = {
    "choice": """output_type: multiple_choice
doc_to_text: {prompt}
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
""",
    "rolling": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: bits_per_byte}}]
""",
    "written": """output_type: generate_until
doc_to_text: {prompt}
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match}}]
""",
}


def write_tasks(folder: Path, data: Path, prompt: str) -> None:
    """A task file of each kind."""
    spelt = json.dumps(prompt.replace("{}", "{{question}}"))
    for task in TASKS:
        text = COMMON + KINDS[task]
        text = text.format(task=task, data=json.dumps(str(data.resolve())), prompt=spelt)
        (folder / f"{task}.yaml").write_text(text, encoding="utf-8")


def measured(make: Callable[[], Any], folder: Path, limit: int | None) -> dict[str, Any]:
    """What the harness finds with a model, and how long each kind of request takes."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    model = make()
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found: dict[str, Any] = {"seconds": {}}
    for task in TASKS:
        began = time.perf_counter()
        results = simple_evaluate(model, tasks=[task], limit=limit, task_manager=manager)
        found["seconds"][task] = time.perf_counter() - began
        samples = sorted(results["samples"][task], key=lambda one: one["doc_id"])
        found[task] = [one["filtered_resps"] for one in samples]
        figures = results["results"][task]
        found |= {name.split(",")[0]: v for name, v in figures.items() if name.endswith(",none")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--prompt", default="Review: {}\nSentiment:")
    given = parser.parse_args()
    enable_compilation_cache()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_tasks(folder, given.data, given.prompt)
        export(given.run, folder / "exported")
        ours = measured(lambda: HarnessModel(load(given.run, dtype="float32")), folder, given.limit)

        def transformers_model() -> Any:
            from lm_eval.models.huggingface import HFLM

            path = str(folder / "exported")
            return HFLM(pretrained=path, dtype="float32", device="cpu", batch_size=16)

        theirs = measured(transformers_model, folder, given.limit)
    choices = np.array([[pair[0] for pair in one] for one in ours["choice"]], float)
    others = np.array([[pair[0] for pair in one] for one in theirs["choice"]], float)
    told = np.array([ours["rolling"], theirs["rolling"]], float)
    greedy = [[bool(pair[1]) for one in side["choice"] for pair in one] for side in (ours, theirs)]
    same = [a == b for a, b in zip(ours["written"], theirs["written"], strict=True)]
    result = {
        "examples": len(choices),
        "accuracy": [ours["acc"], theirs["acc"]],
        "accuracy_norm": [ours["acc_norm"], theirs["acc_norm"]],
        "bits_per_byte": [ours["bits_per_byte"], theirs["bits_per_byte"]],
        "largest_difference": float(abs(choices - others).max()),
        "largest_difference_rolling": float(abs(told[0] - told[1]).max()),
        "greedy_equal": greedy[0] == greedy[1],
        "texts_equal": float(np.mean(same)),
        "seconds": [ours["seconds"], theirs["seconds"]],
    }
    for name, value in result.items():
        print(f"{name:28}{value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
