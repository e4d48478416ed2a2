"""Several runs on one page: best figures, curves in one frame, config differences."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pages import Document, page
from report_tasks import TOPIC, task_run
from run_folders import ENVIRONMENT, RunMaker, eval_line, train_line

from llmjax.errors import UserError
from llmjax.optimizers.standard import LionConfig
from llmjax.reporting.comparison import MAX_RUNS
from llmjax.reporting.report import report
from llmjax.scoring.config import EvaluationConfig
from llmjax.scoring.evaluation_tasks import ChooseTask


def make(folder: Path, bits: float, *, batch: int = 1, **changes) -> Path:
    """A run whose last evaluation has these bits per byte, with `batch` tokens per step."""
    maker = RunMaker(folder)
    maker = replace(maker, config=replace(maker.config, **changes))
    lines = [train_line(step) | {"tokens": batch * step} for step in (1, 2, 30)]
    evals = [eval_line(step) | {"bits_per_byte": bits + 30 - step} for step in (10, 20, 30)]
    return maker.write([*lines, *evals], environment=ENVIRONMENT)


@pytest.fixture
def runs(tmp_path):
    worse, better = make(tmp_path / "worse", 3.0), make(tmp_path / "better", 2.0, seed=7)
    other = make(tmp_path / "<b>other", 2.5, optimizer=LionConfig())
    return [worse, better, other]


def test_the_page_lies_beside_the_runs_and_ranks_them(runs, tmp_path):
    path = report(runs)
    assert path == tmp_path / "comparison.html"
    document = Document(path)
    assert "3 runs compared" in document.text
    places = [document.text.index(f"{bits:.4f}") for bits in (2, 2.5, 3)]
    assert places == sorted(places)
    for expected in (
        "2.0000 bits per byte, step 30",
        "5.25M 30 30",
        "1 CPU device",
        "the runs differ Field worse better <b>other",
        "seed 0 7 0",
        "optimizer adamw adamw lion",
    ):
        assert expected in document.text, expected
    assert "<b>other" not in document.source


def test_every_run_has_its_curve_in_each_figure(runs):
    document = Document(report(runs))
    values = re.findall(r'<script type="application/json">(.*?)</script>', document.source)
    curves = [json.loads(block) for block in values]
    assert [len(figure) for figure in curves] == [3, 3, 3, 3], "validation and training, of two"
    assert curves[0][1]["points"] == [[10, 22.0], [20, 12.0], [30, 2.0]]
    labels = [svg["aria-label"] or "" for svg in document.all("svg")]
    assert labels[0].startswith("Bits per byte: validation by step: worse from 23 at step 10")
    ids = [a["id"] for _, a in document.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(f'class="line run{n}"' in document.source for n in range(3))


def test_a_metric_of_tasks_measured_while_training_decides(tmp_path):
    quiz = EvaluationConfig(metric="quiz.accuracy", tasks=(ChooseTask(("quiz.csv",)),))
    folders = []
    for name, shares in (("low", (0.1, 0.4)), ("high", (0.7, 0.6))):
        maker = RunMaker(tmp_path / name)
        lines = [
            {"kind": "tasks", "quiz.accuracy": share, "quiz.accuracy_stderr": 0.1}
            | {"step": step, "time": eval_line(step)["time"]}
            for step, share in enumerate(shares, start=1)
        ]
        maker = replace(maker, config=replace(maker.config, evaluation=quiz))
        folders.append(maker.write([train_line(2), eval_line(2), *lines], environment=ENVIRONMENT))
    document = Document(report(folders))
    text = document.text
    places = [text.index(f"{figure} % quiz accuracy, step") for figure in ("70.00", "40.00")]
    assert places == sorted(places)
    assert "60.00 % quiz accuracy, step 2" in text, "the latest"
    labels = [svg["aria-label"] or "" for svg in document.all("svg")]
    assert any(
        label.startswith("Quiz accuracy: validation by step: low from 10") for label in labels
    )


def test_long_names_are_shortened_in_their_middle_at_the_curves(tmp_path):
    names = [f"a_sweep_over_rates_{n}" for n in (1, 2)]
    document = Document(report([make(tmp_path / name, 2.0) for name in names]))
    values = re.findall(r'<script type="application/json">(.*?)</script>', document.source)
    assert [curve["name"] for curve in json.loads(values[0])] == ["a_s…tes_1", "a_s…tes_2"]
    assert all(name in document.text for name in names), "in the legend"


def test_runs_of_different_batches_are_drawn_over_tokens(tmp_path):
    document = Document(report([make(tmp_path / "a", 2.0), make(tmp_path / "b", 2.0, batch=4)]))
    values = re.findall(r'<script type="application/json">(.*?)</script>', document.source)
    assert json.loads(values[0])[1]["points"][-1] == [120, 2.0]
    assert "By tokens trained on" in document.text


def test_what_does_not_compare_is_said(tmp_path, runs):
    tasks = task_run(RunMaker(tmp_path / "tasks"), TOPIC)
    text = Document(report([runs[0], tasks], tmp_path / "x.html")).text
    assert "metrics that do not compare: accuracy, bits per byte" in text
    part = make(tmp_path / "part", 2.0)
    (part / "environment.json").write_text(json.dumps(ENVIRONMENT | {"data": {"heldout_bytes": 9}}))
    assert "evaluated on different validation texts" in Document(report([runs[0], part])).text
    assert "different validation texts" not in Document(report(runs)).text


def test_runs_without_a_step_are_on_the_page(tmp_path, runs):
    empty = RunMaker(tmp_path / "empty").write()
    text = Document(report([empty, runs[0]])).text
    assert "empty n/a not evaluated n/a not evaluated n/a 0 n/a n/a n/a n/a" in text
    assert "No training step has been logged of empty" in text
    assert "No curves" in Document(report([empty, RunMaker(tmp_path / "too").write()])).text


def test_runs_of_several_folders_are_compared_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [make(tmp_path / parent / "run", 2.0) for parent in ("a", "b")]
    assert report(folders) == Path("comparison.html")
    assert str(folders[0]) in Document(Path("comparison.html")).text


def test_wrong_lists_of_runs_are_refused(tmp_path, runs):
    for folders, reason in (
        ([], "no run is named"),
        ([runs[0], f"{runs[0]}/"], "is named twice"),
        ([runs[0], tmp_path / "nowhere"], "no such run folder"),
        ([make(tmp_path / str(n), 2.0) for n in range(MAX_RUNS + 1)], "are more than 16"),
    ):
        with pytest.raises(UserError, match=reason):
            report(folders)


def test_a_list_of_one_run_is_its_report(runs):
    assert report(runs[:1]) == runs[0] / "report.html"
    assert "Run details" in page(runs[0]).text
