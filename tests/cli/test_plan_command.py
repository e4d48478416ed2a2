"""`llmjax plan`."""

import json
import subprocess

import pytest
from command import run

TINY = (
    "--model.d-model 64 --model.num-heads 4 --model.num-decoder-layers 2 --model.vocab-size 512 "
    "--data.length 128 --data.batch-size 64"
).split()


def planned(capsys, *words: str) -> dict:
    code, out, err = run(capsys, "plan", "quickstart", *TINY, *words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_page_and_its_data(capsys):
    words = ("--topology", "v5e:2x2", "--tokens", "1e9", "--price", "2.5")
    found = planned(capsys, *words)
    assert found["depth"] == "analytic"
    assert found["mesh"] == {
        "data": 1,
        "stage": 1,
        "fsdp": 4,
        "expert": 1,
        "sequence": 1,
        "tensor": 1,
    }
    assert found["memory"]["fits"] is True
    assert found["days"] == pytest.approx(1e9 / found["tokens_per_second"] / 86_400)
    assert found["cost"] == pytest.approx(found["days"] * 24 * 4 * 2.5)
    times = found["time"]
    exposed = sum(each["exposed"] for each in times["collectives"])
    total = times["products"] + times["attention"] + times["memory"] + exposed
    assert found["step_seconds"] == pytest.approx(total)
    code, out, err = run(capsys, "plan", "quickstart", *TINY, *words)
    assert (code, err) == (0, [])
    for text in ("analytic", "fits: ", "matrix products", "all-gather over fsdp", "MFU", "cost"):
        assert text in out
    assert max(map(len, out.splitlines())) < 120


def test_unknown_speeds_are_not_guessed(capsys):
    found = planned(capsys, "--topology", "cpu", "--price", "1")
    names = ("step_seconds", "tokens_per_second", "mfu", "days", "cost")
    assert [found[name] for name in names] == [None] * 5
    assert found["memory"]["needed"] > 0
    _, out, _ = run(capsys, "plan", "quickstart", *TINY, "--topology", "cpu")
    assert "n/a" in out


def test_a_plan_that_does_not_fit_names_one_that_does(capsys):
    words = ("--topology", "v5e:1x1", "--data.batch-size", "8192", "--data.length", "4096")
    found = planned(capsys, *words, "--model.max-length", "4096")
    assert found["memory"]["fits"] is False
    (advice,) = found["advice"]
    assert advice.startswith("this fits: --")
    changes = advice.removeprefix("this fits: ").split()
    again = planned(capsys, *words, "--model.max-length", "4096", *changes)
    assert again["memory"]["fits"] is True
    huge = ("--model.d-model", "16384", "--model.num-decoder-layers", "100")
    (advice,) = planned(capsys, "--topology", "v5e:1x1", *huge)["advice"]
    assert "at least" in advice


def test_a_search_ranks_what_fits(capsys):
    found = planned(capsys, "--topology", "v5e:2x2", "--search")
    speeds = [each["tokens_per_second_per_chip"] for each in found["best"]]
    assert len(speeds) == found["fitting"] > 5
    assert speeds == sorted(speeds, reverse=True)
    best = found["best"][0]
    plan = planned(capsys, "--topology", "v5e:2x2", *best["options"].split())
    assert plan["tokens_per_second_per_chip"] == pytest.approx(speeds[0])
    _, _, err = run(capsys, "plan", "quickstart", *TINY, "--topology", "cpu", "--search")
    assert "is not known" in err[-1]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--topology", "v5e"], "v5e:16x16"),
        (["--tokens", "-1"], "--tokens -1"),
        (["--topology", "v5e:3x1"], "does not divide"),
        (["--topology", "v5e:2x2", "--mesh.tensor", "3"], "does not fit 4"),
    ],
)
def test_mistakes_are_reported_in_one_line(capsys, words, problem):
    code, out, err = run(capsys, "plan", "quickstart", *TINY, *words)
    assert (code, out) == (2, "")
    assert len(err) == 1
    assert problem in err[0]


def test_without_the_compiler_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setattr("llmjax.run.planning.compiled.find_spec", lambda name: None)
    for topology, extra in (("v5e:2x2", "plan-tpu"), ("h100:8", "plan-gpu")):
        code, _, err = run(capsys, "plan", "quickstart", "--topology", topology, "--compile")
        assert code == 2
        assert f"llmjax[{extra}]" in err[0]


def test_the_compiler_of_this_machine_is_asked(capsys):
    """Once: its program holds the state, which is known exactly, and what it computes with it."""
    found = planned(capsys, "--topology", "cpu", "--compile")
    assert found["depth"] == "compiled"
    compiled, analytic = found["memory"]["compiled"], found["memory"]["analytic"]
    state = analytic["parameters"] + analytic["optimizer"]
    rows = 4 * 6 * 64 * 128  # of the batch: inputs, targets, positions, segments, weights; steps
    assert state < compiled["arguments"] < state + rows
    assert compiled["peak"] == pytest.approx(sum(compiled.values()) - compiled["peak"])
    assert found["memory"]["needed"] == compiled["peak"]
    assert "jaxlib" in found["versions"]


def test_a_compiler_that_crashes_or_hangs_is_reported_in_one_line(capsys, monkeypatch):
    def crash(command, **options):
        return subprocess.CompletedProcess(command, -11, "", "Fatal: in a thread\n")

    def hang(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    for fake, problem in ((crash, "code -11"), (hang, "minutes")):
        monkeypatch.setattr("llmjax.run.planning.compiled.subprocess.run", fake)
        words = ("quickstart", *TINY, "--topology", "cpu", "--compile")
        code, _, err = run(capsys, "plan", *words)
        assert code == 2
        assert len(err) == 1
        assert problem in err[0]
