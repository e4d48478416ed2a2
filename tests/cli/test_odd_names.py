"""Names of run folders and files that are long, odd or not UTF-8: a line, or it works."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command import run

from llmjax.data.text.text_files import TextSource
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run

TESTS = Path(__file__).parents[1]
NOT_UTF8 = os.fsdecode(b"not \xff utf8")
ODD = ["a\nb", "sp ace \"'", "100%s %d", "-dash", NOT_UTF8, "link", "slash/", "é" * 127]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is empty but for what names lead to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_link").mkdir()
    (tmp_path / "link").symlink_to("of_link")
    return tmp_path


def make_run(name: str) -> None:
    """A run folder that nothing was trained in yet."""
    Path(name).mkdir(exist_ok=True)
    Path(name, "config.json").write_text(to_json(Config(run_dir=name)), encoding="utf-8")


@pytest.mark.parametrize("name", ODD)
def test_reports_of_runs_with_odd_names(folder, capsys, name):
    make_run(name)
    word = name if not name.startswith("-") else f"./{name}"
    code, out, err = run(capsys, "report", "--json", "--", word)
    assert (code, err) == (0, [])
    path = json.loads(out)["report"]
    page = Path(path).read_bytes().decode("utf-8")
    assert path == str(Path(word, "report.html"))
    assert "<html" in page
    assert Run.open(word).config().run_dir == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 260, "File name too long"),
        (f"{'x/' * 3000}", "File name too long"),
        ("", "is not a run folder"),
        (".", "is not a run folder"),
        ("..", "is not a run folder"),
        ("link", "is not a run folder"),
        ("a\nb\x1b[2J", "no such run folder"),
        (NOT_UTF8, r"not \xff utf8: no such run folder"),
        ("nul\0", "no such run folder"),
    ],
)
@pytest.mark.parametrize("command", ["report", "evaluate", "generate", "export"])
def test_names_of_no_run_are_one_line(folder, capsys, command, name, message):
    code, out, err = run(capsys, command, name, *(["out"] if command == "export" else []))
    assert (code, out, len(err)) == (2, "", 1)
    assert message in err[0]
    assert err[0].isprintable()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (NOT_UTF8, "has a name that is not UTF-8, and checkpoints need one that is"),
        ("x" * 260, "File name too long"),
        ("", "is not a folder name"),
        ("nul\0", "is not a folder name"),
        ("..", "is not empty and not a run folder"),
    ],
)
def test_runs_that_cannot_be_begun(folder, capsys, name, message):
    (folder.parent / "something").touch()
    before = sorted(folder.iterdir())
    code, out, err = run(capsys, "train", "smoke", "--run-dir", name)
    assert (code, out, len(err)) == (2, "", 1)
    assert message in err[0]
    assert sorted(folder.iterdir()) == before


def test_what_a_run_stores_is_utf8_and_comes_back(folder):
    source = TextSource((NOT_UTF8,))
    base = Config(run_dir="run")
    config = replace(base, data=replace(base.data, sources=(source,)))
    created = Run.create(config)
    assert created.config() == config
    created.keep_measures({"task": {"data": NOT_UTF8}})
    assert json.loads(created.measures.read_text(encoding="utf-8"))["task"]["data"] == NOT_UTF8
    created.keep_measures({"other": {}})
    assert list(json.loads(created.measures.read_bytes())) == ["task", "other"]


@pytest.mark.once
def test_a_run_of_odd_names_trains_where_stderr_is_closed_and_stdout_is_latin(folder):
    """From a file whose name is not UTF-8, into a folder with a space and a line break."""
    (folder / "config.py").write_text(
        "import os, pathlib, sys\n"
        f"sys.path.append({str(TESTS)!r})\n"
        "from dataclasses import replace\n"
        "import runs\n"
        "from llmjax.run.telemetry.config import LogConfig\n"
        "def config():\n"
        "    made = runs.config(pathlib.Path.cwd(), steps=3, run_dir='a ł\\nb')\n"
        "    os.path.exists(b't\\xff') or os.link('text', b't\\xff')\n"
        "    source = replace(made.data.sources[0], paths=(os.fsdecode(b't\\xff'),))\n"
        "    log = LogConfig(every=1, display='lines')\n"
        "    return replace(made, data=replace(made.data, sources=(source,)), log=log)\n",
        encoding="utf-8",
    )
    result = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m llmjax train config.py 2>&-"],
        stdout=subprocess.PIPE,
        encoding="latin-1",
        env=os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(TESTS.parent)},
    )
    assert result.returncode == 0
    assert result.stdout.startswith("a \\u0142\nb at step 3: ")
    run_folder = folder / "a ł\nb"
    assert len((run_folder / "metrics.jsonl").read_text().splitlines()) >= 3
    assert r"t\udcff" in (run_folder / "config.json").read_text(encoding="utf-8")
    assert json.loads((run_folder / "environment.json").read_text(encoding="utf-8"))
