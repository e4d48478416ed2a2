"""The commands on the page: for the kind of run and its state, quoted for a shell."""

import shlex
from dataclasses import replace

import pytest
from pages import page
from report_tasks import TOPIC, task_run
from run_folders import ENVIRONMENT, RunMaker, demo_metrics, train_line

from llmjax.data.objectives.masked import MaskedConfig
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.model.config import ModelConfig
from llmjax.reporting.commands import shell_commands
from llmjax.reporting.records import read_history
from llmjax.run.folder import Run
from llmjax.tasks.chat import ChatTask
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.similarity import SimilarityTask


def commands(folder, *, trained: bool = True) -> list[list[str]]:
    """The words of each command; `trained`: with a checkpoint and a tokenizer."""
    run = Run.open(folder)
    if trained:
        (run.checkpoints / "40").mkdir(parents=True, exist_ok=True)
        BytesTokenizer().save(run.tokenizer)
    listed = shell_commands(run, run.config(), read_history(run.folder))
    words = [shlex.split(command.line) for command in listed]
    assert all(line[0] == "llmjax" for line in words)
    return [line[1:] for line in words]


def test_a_finished_run_is_trained_longer_generated_from_evaluated_and_exported(demo):
    name = str(demo)
    assert commands(demo) == [
        ["train", name, "--run-dir", f"{name}-again"],
        ["train", name, "--steps", "2400"],
        ["generate", name, "--prompt=The "],
        ["evaluate", name],
        ["export", name, "exports/demo"],
    ]


def test_an_unfinished_run_is_resumed_and_not_used_without_a_checkpoint(maker):
    folder = maker.write([train_line(3)])
    name = str(folder)
    again = ["train", name, "--run-dir", f"{name}-again"]
    assert commands(folder, trained=False) == [again, ["train", name]]


def test_a_run_that_has_not_started_is_trained(maker):
    folder = maker.write()
    assert commands(folder, trained=False) == [["train", str(folder)]]


def test_an_import_is_not_trained_again(maker):
    folder = maker.write()
    (folder / "origin.json").write_text("{}")
    assert [words[0] for words in commands(folder)] == ["generate", "evaluate", "export"]


@pytest.mark.parametrize("name", ["sp ace \"'", "$(touch x)", "é;"])
def test_names_are_quoted(tmp_path, name):
    folder = RunMaker(tmp_path / name).write(demo_metrics(10))
    assert ["evaluate", str(folder)] in commands(folder)


def test_a_name_like_an_option_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunMaker(tmp_path / "-dash").write(demo_metrics(10))
    assert ["evaluate", "./-dash"] in commands("./-dash")


def test_an_encoder_fills_masks(maker):
    model = ModelConfig(d_model=64, num_encoder_layers=2, num_decoder_layers=0, num_heads=2)
    config = replace(maker.config, model=model, objective=MaskedConfig())
    folder = replace(maker, config=config).write(demo_metrics())
    (fill,) = (words for words in commands(folder) if words[0] == "fill-mask")
    assert fill[-1] == "A text with a <mask> token"
    assert commands(folder)[-1][-2:] == ["--to", "stablehlo"], "no published class has this shape"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (TOPIC, ["predict", "--text", "A text"]),
        (ClassificationTask(pair="other"), ["predict", "--text", "A text", "--text", "A other"]),
        (SimilarityTask(), ["embed", "--text", "A text"]),
        (ChatTask(), ["chat"]),
    ],
)
def test_each_task_is_used_in_its_way(maker, task, expected):
    folder = task_run(maker, task)
    assert [expected[0], str(folder), *expected[1:]] in commands(folder)


def test_one_of_several_tasks_is_named(maker):
    folder = task_run(maker, TOPIC, replace(TOPIC, name="mood"))
    words = [line[-2:] for line in commands(folder) if line[0] == "predict"]
    assert words == [["--task", "topic"], ["--task", "mood"]]


def test_epochs_are_doubled_where_the_run_counts_them(maker):
    folder = task_run(replace(maker, config=replace(maker.config, epochs=2.0)), TOPIC)
    assert ["train", str(folder), "--epochs", "4"] in commands(folder)


def test_the_page_has_them(demo):
    text = page(demo).text
    assert f"Last started with {ENVIRONMENT['sessions'][0]['command']}" in text
    assert f"Train it twice as long llmjax train {demo} --steps 2400" in text
