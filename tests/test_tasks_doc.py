"""docs/tasks.md is typed here as it stands, with models that nobody trained and two steps each."""

import io
import json
import re
import shlex
from pathlib import Path

import pytest

import runs
from llmjax.cli.main import main
from task_runs import DECODER, ENCODER, begun

PAGE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
# Compiling takes nearly all the time of these runs, and SGD without dropout least of it.
TOY = {
    "epochs": "none",
    "steps": "2",
    "optimizer.schedule.warmup-steps": "0",
    "data.batch-size": "8",
    "data.length": "64",
    "evaluation.batch-size": "8",
    "compute.dropout": "0",
    "optimizer": "sgd",
}
SMALL = {
    "answer": "--tasks.0.stride 8",
    "translate": "--model.d-model 16 --model.num-heads 2 --model.num-encoder-layers 1 "
    "--model.num-decoder-layers 1 --model.max-length 64 --tasks.0.max-new-tokens 4",
    "runs/summaries": "--tasks.0.max-new-tokens 4",
}
MODELS = {"sample:minilm": ENCODER, "sample:smollm2-135m": DECODER}
SAID = {
    "runs/classify": ("accuracy", "f1_macro", "f1_micro", "matthews", "loss", "true \\ predicted"),
    "runs/regress": ("pearson", "spearman", "mean_squared_error", "mean_absolute_error"),
    "runs/tag": ("f1", "precision", "recall", "accuracy"),
    "runs/answer": ("exact_match", "f1"),
    "runs/translate": ("bleu", "chrf", "signature"),
    "runs/chat": ("perplexity", "accuracy", "loss"),
    "runs/prefer": ("accuracy", "margin"),
    "runs/similar": ("accuracy", "mean_reciprocal_rank", "spearman"),
    "runs/multitask": ("task label", "task relatedness", "pearson"),
}
TOLD = {
    "runs/classify": {"row", "label", "probability", "probabilities"},
    "runs/regress": {"row", "value"},
    "runs/topics": {"row", "labels", "probabilities"},
    "runs/tag": {"row", "words", "tags", "entities"},
    "runs/answer": {"row", "answer", "start", "candidates"},
    "runs/translate": {"row", "text"},
    "runs/summaries": {"row", "text"},
    "runs/multitask": {"row", "label"},
}


def commands(text: str) -> list[list[str]]:
    """The `llmjax ...` lines of a section's listings, split into words."""
    lists = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(lists).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("llmjax ")]


def write_tables(text: str) -> None:
    for name, rows in re.findall(r"^`(data/[^`]+)`\n\n```\n(.*?)```", text, re.DOTALL | re.M):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(rows, encoding="utf-8")


def small(words: list[str]) -> list[str]:
    """The command with $TOY spelt, of a size for a test."""
    toy = [word for name, value in TOY.items() for word in (f"--{name}", value)]
    found = [one for word in words for one in (toy if word == "$TOY" else [word])]
    if words[0] == "train":
        assert "$TOY" in words
        for name, more in SMALL.items():
            found += shlex.split(more) if name in words else []
    if words[0] == "chat":
        found += ["--max-new-tokens", "4"]
    return found[: found.index(">")] if ">" in found else found


def type_in(command: list[str], capsys) -> None:
    words = command[1:]
    if words[0] == "import":
        begun(words[2], MODELS[words[1]])
        return
    capsys.readouterr()
    assert main(small(words)) == 0, f"{shlex.join(command)}\n{capsys.readouterr().err}"
    out = capsys.readouterr().out
    if words[0] == "evaluate" and "--json" not in words:
        assert all(name in out for name in SAID[words[1]]), out
    if words[0] == "predict":
        for line in out.splitlines():
            assert json.loads(line).keys() >= TOLD[words[1]]


GROUPS = (
    (
        "Text classification",
        "Text pairs and regression",
        "Multi-label classification",
        "Multi-task training",
    ),
    ("Token classification", "Extractive question answering", "Translation and summarization"),
    ("Chat", "Preferences", "Zero-shot evaluation"),
    (
        "Text classification",
        "Embeddings",
        "Trainable parameters",
        "Early stopping and checkpoints",
        "Predict, evaluate, export",
    ),
)
"""Sections that use each other's runs are typed one after the other."""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello!\n"))
    # A program for one device is compiled sooner than one for eight.
    runs.train_on(monkeypatch, 1)
    return tmp_path


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[-1])
def test_every_walk_runs(group, desk, capsys):
    introduction = PAGE.split("\n## ")[0]
    for command in commands(introduction):
        type_in(command, capsys)
    for name in group:
        write_tables(SECTIONS[name])
        if name == "Zero-shot evaluation":
            pytest.importorskip("lm_eval")
        for command in commands(SECTIONS[name]):
            type_in(command, capsys)
        for code in re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL):
            exec(compile(code, "docs/tasks.md", "exec"), {})


def test_no_section_is_left_out():
    walks = {name for name, text in SECTIONS.items() if commands(text)}
    assert walks == {name for group in GROUPS for name in group}
    assert "--epochs none" in PAGE
