"""environment.json: what it says is true of this process, and sessions add up."""

import json
import subprocess
import sys

import jax
import pytest

from llmjax.run import environment


def test_a_session_is_plain_data_and_true():
    session = json.loads(json.dumps(environment.session()))
    assert session["versions"]["jax"] == jax.__version__
    assert session["versions"]["python"] == sys.version.split()[0]
    assert session["devices"]["count"] == jax.device_count()
    assert session["devices"]["platform"] == "cpu"
    assert session["machine"]["cores"] >= 1


def test_sessions_are_appended_and_facts_renewed(tmp_path):
    path = tmp_path / "environment.json"
    environment.record(path, model={"parameters": 1}, data={"train_tokens": 10})
    environment.record(path, model={"parameters": 2}, data={"train_tokens": 20})
    stored = environment.read(path)
    assert stored["model"] == {"parameters": 2}
    assert stored["data"] == {"train_tokens": 20}
    started = [session["started"] for session in stored["sessions"]]
    assert len(started) == 2
    assert started[0] < started[1]
    assert [p.name for p in tmp_path.iterdir()] == ["environment.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", '{"sessions": 3}'])
def test_a_broken_file_is_begun_anew(tmp_path, text):
    path = tmp_path / "environment.json"
    path.write_text(text)
    environment.record(path, model={}, data={})
    assert len(environment.read(path)["sessions"]) == 1


def test_no_file_reads_as_nothing(tmp_path):
    assert environment.read(tmp_path / "environment.json") == {}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/llmjax", "train", "a b.py"], "llmjax train 'a b.py'"),
        (["/x/llmjax/__main__.py", "report", "runs/a"], "python -m llmjax report runs/a"),
        ([""], "python"),
    ],
)
def test_command_is_what_one_would_type(monkeypatch, argv, expected):
    monkeypatch.setattr(sys, "argv", argv)
    assert environment.command() == expected


def test_commit_is_of_the_tree_that_tracks_the_package(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert environment.git_commit(package) is None
    git("init")
    assert environment.git_commit(package) is None, "an untracked package has no commit"
    git("add", ".")
    git("commit", "-m", "first")
    commit = environment.git_commit(package)
    assert commit is not None
    assert len(commit) == 40
    (package / "__init__.py").write_text("changed = True\n")
    assert environment.git_commit(package) == commit + "+"
