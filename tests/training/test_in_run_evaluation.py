"""Tasks measured while a run trains: the figures of `choose` and `harness` on its checkpoints."""

import itertools
import json
import os
import signal
from dataclasses import replace
from functools import partialmethod

import pytest
from lm_eval.tasks import TaskManager

import runs
from llmjax.errors import Stopped, UserError
from llmjax.evaluation.choose import choose
from llmjax.evaluation.harness import harness
from llmjax.parallel.mesh import MeshConfig
from llmjax.reporting.report import report
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.progress import read_progress
from llmjax.run.folder import Run
from llmjax.run.parameters import resolve_step
from llmjax.run.telemetry.config import LogConfig
from llmjax.run.telemetry.display import describe
from llmjax.scoring import continuations
from llmjax.scoring.config import EvaluationConfig, evaluation_problems
from llmjax.scoring.evaluation_tasks import ChooseTask, HarnessTask
from llmjax.training.in_run_evaluation import (
    InRunChoice,
    TaskScore,
    TaskScores,
    harness_scores,
)
from llmjax.training.train import train

QUESTIONS = [
    {"question": f"the {a}", "choices": ["cat", "dog", "old"], "answer": n % 3}
    for n, a in enumerate(("old", "small", "every", "a", "bird", "dog", "cat"))
]


def write_questions(folder, lines=QUESTIONS):
    path = folder / "quiz.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def write_task(folder, data):
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "words.yaml").write_text(f"""task: words_in_run
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}, cache_dir: "{folder / "datasets"}"}}
output_type: multiple_choice
test_split: test
fewshot_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: brier_score, higher_is_better: false}}]
""")
    return str(tasks)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run over eight devices that is measured after steps 2, 3 and 4; its questions and tasks."""
    folder = tmp_path_factory.mktemp("measured")
    data = write_questions(folder)
    tasks = write_task(folder, data)
    config = runs.config(
        folder,
        steps=4,
        mesh=MeshConfig(fsdp=4, tensor=2),
        log=LogConfig(every=1, display="lines"),
        evaluation=EvaluationConfig(
            every=2,
            max_tokens=64,
            batch_size=8,
            tasks=(
                ChooseTask((data,), prompt="so {}"),
                HarnessTask("words_in_run", every=3, fewshot=1, limit=5, include_path=tasks),
            ),
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False)
        )
        patch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
        train(config)
        yield folder / "run", data, tasks


def test_choices_are_those_of_the_command_on_the_same_step(measured):
    run, data, _ = measured
    lines = [line for line in runs.metrics(run, "tasks") if "quiz.accuracy" in line]
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        result = choose(run, data, prompt="so {}", step=line["step"])
        for name in ("accuracy", "accuracy_per_byte"):
            share = result.measures[name].value
            assert line[f"quiz.{name}"] == pytest.approx(share)
            assert line[f"quiz.{name}_stderr"] == pytest.approx((share * (1 - share) / 6) ** 0.5)
        assert line["quiz.examples"] == 7
        assert line["quiz.chance"] == pytest.approx(1 / 3)
        assert line["tokens"] == line["step"] * 8 * 16


def test_the_harness_gives_what_its_command_gives_on_the_same_step(measured):
    run, _, tasks = measured
    config = Run.open(run).config()
    lines = [line for line in runs.metrics(run, "tasks") if "words_in_run.acc" in line]
    assert [line["step"] for line in lines] == [3, 4]
    results = harness(run, "words_in_run", include_path=tasks, step=4, fewshot=1, limit=5)
    expected = results["results"]["words_in_run"]
    assert results["n-shot"]["words_in_run"] == 1
    assert lines[-1]["words_in_run.acc"] == expected["acc,none"]
    assert lines[-1]["words_in_run.acc_stderr"] == pytest.approx(expected["acc_stderr,none"])
    brier = lines[-1]["words_in_run.brier_score"]
    assert brier == pytest.approx(expected["brier_score,none"], abs=1e-6)
    assert brier != pytest.approx(lines[0]["words_in_run.brier_score"], abs=1e-4)
    assert lines[-1]["words_in_run.examples"] == 5
    scores = harness_scores(config.evaluation.tasks[1], results).scores
    assert {s.name: s.larger_is_better for s in scores}["words_in_run.brier_score"] is False


def test_the_display_and_the_report_show_them(measured):
    run, _, _ = measured
    assert task_line(run, 2).startswith("tasks: quiz accuracy ")
    page = report(run).read_text(encoding="utf-8")
    for words in ("quiz: accuracy per byte", "words_in_run: acc", "Tasks while training"):
        assert words in page
    last = runs.metrics(run, "tasks")[-1]
    share, error = (f"{100 * last[f'quiz.accuracy{end}']:.2f} %" for end in ("", "_stderr"))
    assert f"{share} ± {error}" in page
    assert "step 4, 7 examples, chance 33.33 %" in page


def task_line(run, step):
    (line,) = [line for line in runs.metrics(run, "tasks") if line["step"] == step]
    return describe(line)


def choosing(folder, **changes):
    """A run of 4 steps on one device that answers questions after every second one."""
    task = ChooseTask((write_questions(folder),), limit=4)
    evaluation = EvaluationConfig(every=2, max_tokens=32, batch_size=1, tasks=(task,))
    return runs.config(
        folder,
        steps=4,
        checkpoint=CheckpointConfig(every=100, keep_last=9, keep_best=1),
        evaluation=replace(evaluation, **changes),
    )


@pytest.fixture
def one_device(monkeypatch):
    runs.train_on(monkeypatch, 1)


@pytest.mark.once
@pytest.mark.usefixtures("one_device")
def test_a_signal_leaves_them_between_batches_and_a_resumed_run_makes_up(tmp_path, monkeypatch):
    config, run = choosing(tmp_path, metric="loss"), Run(tmp_path / "run")
    check, count = continuations.between_batches, itertools.count(1)

    def counting():
        if next(count) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        check()

    with monkeypatch.context() as patch:
        patch.setattr(continuations, "between_batches", counting)
        with pytest.raises(Stopped, match="SIGTERM: saved step 2; start the same command"):
            train(config)
    assert runs.metrics(run.folder, "tasks") == []
    progress = read_progress(run.checkpoints, 2)
    assert (progress.evaluation_due, progress.tasks_due) == (False, True)
    (line,) = runs.metrics(run.folder, "eval")
    assert progress.heldout_loss == line["loss"]
    train(config)
    assert [line["step"] for line in runs.metrics(run.folder, "tasks")] == [2, 4]
    assert [line["step"] for line in runs.metrics(run.folder, "eval")] == [2, 4]
    progress = read_progress(run.checkpoints, 2)
    assert (progress.tasks_due, progress.heldout_loss) == (False, line["loss"])


@pytest.mark.once
@pytest.mark.usefixtures("one_device")
def test_their_metric_selects_the_best_checkpoint_and_ends_the_run(tmp_path, monkeypatch):
    shares = iter((0.5, 0.75, 0.25, 0.5))

    def measure(self, lm):
        return TaskScores((TaskScore("quiz.accuracy", next(shares), 0.1),), {})

    monkeypatch.setattr(InRunChoice, "measure", measure)
    config = choosing(tmp_path, every=1, metric="quiz.accuracy", patience=2)
    run = train(replace(config, steps=9))
    assert [line["quiz.accuracy"] for line in runs.metrics(run.folder, "tasks")] == [
        0.5,
        0.75,
        0.25,
        0.5,
    ]
    assert run.steps()[-1] == 4
    assert read_progress(run.checkpoints, 2).heldout_loss == -0.75
    assert resolve_step(run, config, None) == 2


@pytest.mark.parametrize(
    ("lines", "changes", "message"),
    [
        (None, {}, "quiz.jsonl: "),
        ([{"text": "a"}], {}, "quiz.jsonl line 1: has no text 'question'"),
        ([{"question": "a", "choices": ["b", "c"]}], {}, "no question has an answer"),
        ([{"question": "a", "choices": ["b", "c" * 99], "answer": 0}], {}, "context is"),
        (QUESTIONS, {"metric": "quiz.acc"}, "choose one of quiz.accuracy, quiz.accuracy_per_byte"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(tmp_path, lines, changes, message):
    config = choosing(tmp_path, **changes)
    if lines is None:
        (tmp_path / "quiz.jsonl").unlink()
    else:
        write_questions(tmp_path, lines)
    with pytest.raises(UserError) as caught:
        train(config)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        ((ChooseTask(),), "tasks.0.paths: empty"),
        ((ChooseTask(("a.b/*.csv",)),), "tasks.0.name: '*' contains a dot"),
        ((ChooseTask(("a.csv",), limit=0),), "tasks.0.limit: 0 is not positive"),
        ((ChooseTask(("a.csv",), prompt="?"),), "tasks.0.prompt: '?' has no placeholder"),
        ((ChooseTask(("a.csv",)), HarnessTask("a")), "tasks.1.name: a is already the name"),
        ((HarnessTask("a", fewshot=-1),), "tasks.0.fewshot: -1 is negative"),
        ((HarnessTask("a", every=-1),), "tasks.0.every: -1 is negative"),
    ],
)
def test_configs_without_meaning_are_refused(tasks, problem):
    (found,) = evaluation_problems(EvaluationConfig(tasks=tasks))
    assert found.startswith(f"evaluation.{problem}")


def test_tasks_of_a_tag_and_filters_are_in_the_names():
    results = {
        "results": {
            "one": {"alias": "one", "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 4},
            "two": {"exact_match,strict": 0.25, "exact_match_stderr,strict": "N/A"},
        },
        "higher_is_better": {"one": {"acc": True}},
    }
    assert harness_scores(HarnessTask("tag"), results).record() == {
        "tag.one.acc": 0.5,
        "tag.one.acc_stderr": 0.1,
        "tag.two.strict.exact_match": 0.25,
        "tag.two.strict.exact_match_stderr": None,
        "tag.one.examples": 4,
        "tag.two.examples": None,
    }
    assert "first.acc" in harness_scores(HarnessTask("one", name="first"), results).record()
