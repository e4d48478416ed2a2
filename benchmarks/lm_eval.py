"""One run in lm-evaluation-harness, directly and as an export loaded by Transformers.

Command: python -m benchmarks.lm_eval RUN --data FILE.jsonl [--limit N] [--prompt "...{}..."]
RUN is the run folder of a decoder, for example from `llmjax import sample:smollm2-135m RUN`; each
line of FILE is {"question": ..., "choices": [...], "answer": number}. It defines three tasks:
multiple choice, the likelihood of the questions as texts, and generating twelve tokens after each
prompt. Both models compute in float32 on the CPU. Prints accuracies, the largest difference of a
log-likelihood, the share of equal texts, and seconds, then JSON. Expected: log-likelihoods within
0.001, equal accuracy.
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
    """Writes a task file of each kind."""
    quoted_prompt = json.dumps(prompt.replace("{}", "{{question}}"))
    for task in TASKS:
        text = COMMON + KINDS[task]
        text = text.format(task=task, data=json.dumps(str(data.resolve())), prompt=quoted_prompt)
        (folder / f"{task}.yaml").write_text(text, encoding="utf-8")


def measure(make: Callable[[], Any], folder: Path, limit: int | None) -> dict[str, Any]:
    """Returns the harness's results for a model, and the seconds of each task."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    model = make()
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    measured: dict[str, Any] = {"seconds": {}}
    for task in TASKS:
        began = time.perf_counter()
        results = simple_evaluate(model, tasks=[task], limit=limit, task_manager=manager)
        measured["seconds"][task] = time.perf_counter() - began
        samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
        measured[task] = [sample["filtered_resps"] for sample in samples]
        metrics = results["results"][task]
        measured |= {name.split(",")[0]: v for name, v in metrics.items() if name.endswith(",none")}
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--prompt", default="Review: {}\nSentiment:")
    args = parser.parse_args()
    enable_compilation_cache()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tasks(folder, args.data, args.prompt)
        export(args.run, folder / "exported")
        llmjax = measure(lambda: HarnessModel(load(args.run, dtype="float32")), folder, args.limit)

        def transformers_model() -> Any:
            from lm_eval.models.huggingface import HFLM

            path = str(folder / "exported")
            return HFLM(pretrained=path, dtype="float32", device="cpu", batch_size=16)

        sides = (llmjax, measure(transformers_model, folder, args.limit))
    # Each response to a choice is (log-likelihood, whether it is greedy).
    choices = np.array([[[pair[0] for pair in x] for x in side["choice"]] for side in sides], float)
    rolling = np.array([side["rolling"] for side in sides], float)
    greedy = [[bool(pair[1]) for x in side["choice"] for pair in x] for side in sides]
    same = [a == b for a, b in zip(*(side["written"] for side in sides), strict=True)]
    result = {
        "examples": len(choices[0]),
        "accuracy": [side["acc"] for side in sides],
        "accuracy_norm": [side["acc_norm"] for side in sides],
        "bits_per_byte": [side["bits_per_byte"] for side in sides],
        "largest_difference": float(abs(choices[0] - choices[1]).max()),
        "largest_difference_rolling": float(abs(rolling[0] - rolling[1]).max()),
        "greedy_equal": greedy[0] == greedy[1],
        "texts_equal": float(np.mean(same)),
        "seconds": [side["seconds"] for side in sides],
    }
    for name, value in result.items():
        print(f"{name:28}{value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
