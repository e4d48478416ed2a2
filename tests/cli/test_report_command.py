"""`llmjax report` of one run and of several."""

import json
from pathlib import Path

import pytest
from command import run, stub


@pytest.fixture
def calls(monkeypatch):
    """The arguments of each call of the function."""
    made = []

    def report(runs, options):
        made.append((runs, options.out))
        return Path("page.html")

    stub(monkeypatch, "report", report)
    return made


def test_one_run(capsys, calls):
    code, out, _ = run(capsys, "report", "a", "--out", "x.html", "--json")
    assert (code, calls) == (0, [("a", "x.html")])
    assert json.loads(out) == {"run": "a", "report": "page.html"}


def test_several_runs(capsys, calls):
    code, out, _ = run(capsys, "report", "a", "b", "--output", "x.html", "c", "--json")
    assert (code, calls) == (0, [(("a", "b", "c"), "x.html")])
    assert json.loads(out) == {"runs": ["a", "b", "c"], "report": "page.html"}


def test_none_is_a_mistake(capsys, calls):
    code, _, err = run(capsys, "report")
    assert (code, calls) == (2, [])
    assert err == ["llmjax: error: RUN...: missing; usage: llmjax report RUN... [--out FILE]"]
