"""docs/tasks.md is typed here as it stands, with models that nobody trained and two steps each."""

import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import runs
from llmjax.cli.main import main
from llmjax.data.tables.table import Row
from llmjax.tasks.chat import ChatTask
from llmjax.tasks.preference import PreferenceTask
from task_runs import DECODER, ENCODER, begun

pytestmark = pytest.mark.documentation

PAGE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
# Compiling takes nearly all the time of these runs, and SGD without dropout least of it.
TINY = {
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
MODELS = {"sample:minilm": "runs/minilm", "sample:smollm2-135m": "runs/smollm2"}
SAID = {
    "runs/classify": ("accuracy", "f1_macro", "f1_micro", "matthews", "loss", "true \\ predicted"),
    "runs/regress": ("pearson", "spearman", "mean_squared_error", "mean_absolute_error"),
    "runs/topics": ("f1_micro", "f1_macro", "exact_match"),
    "runs/tag": ("f1", "precision", "recall", "accuracy"),
    "runs/answer": ("exact_match", "f1"),
    "runs/translate": ("bleu", "chrf", "signature"),
    "runs/summaries": ("bleu", "chrf", "signature"),
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


ARRAYS = dict(re.findall(r"^([A-Z]+)=\((.*)\)$", PAGE, re.MULTILINE))
"""Arrays of the shell, which bash and zsh expand alike: "${NAME[@]}"."""


def words_of(line: str) -> list[str]:
    """The words of a line, arrays expanded."""
    words = []
    for word in shlex.split(line):
        array = re.fullmatch(r"\$\{([A-Z]+)\[@\]\}", word)
        words += words_of(ARRAYS[array[1]]) if array else [word]
    return words


def listings(text: str) -> str:
    return "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")


def commands(text: str) -> list[list[str]]:
    """The `llmjax ...` lines of a section's listings, split into words."""
    lines = listings(text).splitlines()
    return [words_of(line) for line in lines if line.startswith("llmjax ")]


def write_tables(text: str) -> None:
    tables = re.findall(r"^cat > (data/\S+) <<'END'\n(.*?)^END$", text, re.DOTALL | re.MULTILINE)
    for name, rows in tables:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(rows, encoding="utf-8")


def small(words: list[str]) -> list[str]:
    """The command, of a size for a test."""
    found = list(words)
    if words[0] == "train":
        for name, value in TINY.items():
            if f"--{name}" in found:
                found[found.index(f"--{name}") + 1] = value
            else:
                found += [f"--{name}", value]
        for name, more in SMALL.items():
            found += shlex.split(more) if name in words else []
    if words[0] == "chat":
        found += ["--max-new-tokens", "4"]
    return found[: found.index(">")] if ">" in found else found


def type_in(command: list[str], capsys) -> None:
    words = command[1:]
    capsys.readouterr()
    assert main(small(words)) == 0, f"{shlex.join(command)}\n{capsys.readouterr().err}"
    out = capsys.readouterr().out
    if words[0] == "evaluate" and "--json" not in words:
        assert all(name in out for name in SAID[words[1]]), out
    if words[0] == "predict":
        for line in out.splitlines():
            assert json.loads(line).keys() >= TOLD[words[1]]


GROUPS = (
    ("Text pairs and regression", "Multi-label classification", "Multi-task training"),
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


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Runs as if imported, made once."""
    folder = tmp_path_factory.mktemp("models")
    begun(folder / "minilm", ENCODER)
    begun(folder / "smollm2", DECODER)
    return folder


@pytest.fixture
def desk(tmp_path, monkeypatch, models):
    shutil.copytree(models, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello!\n"))
    # A program for one device is compiled sooner than one for eight.
    runs.train_on(monkeypatch, 1)
    return tmp_path


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[-1])
def test_every_walk_runs(group, desk, capsys):
    write_tables(PAGE)  # a section may use the table of another
    for name in group:
        if name == "Zero-shot evaluation":
            pytest.importorskip("lm_eval")
        for command in commands(SECTIONS[name]):
            type_in(command, capsys)
        for code in re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL):
            exec(compile(code, "docs/tasks.md", "exec"), {})


def test_no_section_is_left_out():
    walks = {name for name, text in SECTIONS.items() if commands(text)}
    assert walks == {name for group in GROUPS for name in group}
    imports = [["llmjax", "import", *words] for words in MODELS.items()]
    assert commands(PAGE.split("\n## ")[0]) == imports


def test_every_walk_has_tables_worth_measuring():
    for words in (words for text in SECTIONS.values() for words in commands(text)):
        if words[1] == "train":
            tables = re.findall(r"data/[\w.]+(?=[, ]|$)", " ".join(words[2:]))
            train, dev = ([n for n in tables if ("dev" in n) == is_dev] for is_dev in (False, True))
            assert train, words
            assert len(dev) == len(train), words


def test_tables_have_enough_rows_and_shells_agree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tables(PAGE)
    for path in Path("data").iterdir():
        if path.is_file():
            rows = len(path.read_text(encoding="utf-8").splitlines()) - (path.suffix == ".csv")
            assert rows >= (8 if "dev" in path.name else 20), path
    # zsh reads # as a comment only in scripts, and splits no unquoted variable.
    for line in listings(re.sub(r"^cat .*?^END$", "", PAGE, flags=re.DOTALL | re.M)).splitlines():
        assert "#" not in line
        assert not re.search(r"(?<!\")\$", line), line


def test_rows_of_the_forms_shown_are_read():
    talks, pairs = (
        [Row(name, json.loads(line)) for line in re.findall(r"^\{.*\}$", text, re.MULTILINE)]
        for name, text in (
            (name, re.sub(r"^cat .*?^END$", "", SECTIONS[name], flags=re.DOTALL | re.MULTILINE))
            for name in ("Chat", "Preferences")
        )
    )
    for row in talks:
        roles = [message["role"] for message in ChatTask().messages_of(row)]
        assert roles[-2:] == ["user", "assistant"]
    assert len(talks) == 5
    assert PreferenceTask().find_metadata(pairs).reading.endswith("chat template: 3 of 3")
