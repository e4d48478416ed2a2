"""What earlier versions wrote: run folders, fine-tuned runs and archives open, resume, decompress.

Each folder of tests/stored holds one version's files and, in expected.json, what that version
itself computed from them.
"""

import filecmp
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import one_device

ROOT = Path(__file__).parents[1]
FORMATS = sorted(path.name for path in (ROOT / "tests" / "stored").iterdir())


def copied(name: str, folder: Path) -> dict[str, Any]:
    """Copies a version's files; returns the content of expected.json."""
    source = ROOT / "tests" / "stored" / name
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return json.loads((source / "expected.json").read_text())


def losses(run: Path) -> dict[str, float]:
    """Of the training steps that a run has logged."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {str(line["step"]): line["loss"] for line in lines if line["kind"] == "train"}


@pytest.mark.parametrize("name", FORMATS)
def test_runs_evaluate_predict_and_resume_with_the_figures_they_had(name, tmp_path, monkeypatch):
    expected = copied(name, tmp_path)
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    text_steps, task_steps = (max(expected[k], key=int) for k in ("text_losses", "task_losses"))
    commands = [
        "evaluate text_run --data text.txt --json",
        "evaluate tasks_run --json",
        "predict tasks_run --task classification --text 'the cat sees good'",
        f"train text_run --steps {text_steps} --log.every 1",
        f"train tasks_run --steps {task_steps}",
    ]
    printed = one_device.run([{"command": shlex.split(words)} for words in commands], tmp_path)
    text, tasks, predicted = (json.loads(line) for line in printed.splitlines() if line[:1] == "{")

    assert {key: text[key] for key in expected["text"]} == pytest.approx(expected["text"], rel=1e-4)
    evaluated = {key: task["loss"] for key, task in tasks["tasks"].items()}
    assert evaluated == pytest.approx(expected["tasks"], rel=1e-3)
    assert predicted["label"] == expected["predicted"]["label"]
    probability = expected["predicted"]["probability"]
    assert predicted["probability"] == pytest.approx(probability, rel=1e-3)

    for run, kind, tolerance in (("text_run", "text", 1e-3), ("tasks_run", "task", 2e-2)):
        new, then = losses(tmp_path / run), expected[f"{kind}_losses"]
        assert {step: new[step] for step in then} == pytest.approx(then, rel=tolerance)


OLDEST, *NEWER = FORMATS


@pytest.mark.parametrize("version", [pytest.param(OLDEST, marks=pytest.mark.once), *NEWER])
@pytest.mark.parametrize("name", ["text", "folder"])
def test_an_archive_decompresses(version, name, tmp_path):
    folder = tmp_path
    copied(version, folder)
    original = {"text": "part.txt", "folder": "folder"}[name]
    # Without this process's XLA_FLAGS: archives depend on how the compiler rounds.
    known = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-m", "llmjax", "decompress", "text_run", f"{name}.ljx", "out"],
        cwd=folder,
        env=known | {"PYTHONPATH": str(ROOT), "LLMJAX_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 2 and " was " in result.stderr:
        pytest.skip("made by another processor or version of JAX, which rounds otherwise")
    assert result.returncode == 0, result.stderr
    if name == "text":
        assert (folder / "out").read_bytes() == (folder / original).read_bytes()
    else:
        compared = filecmp.dircmp(folder / original, folder / "out")
        assert not compared.left_only + compared.right_only + compared.diff_files
        assert not filecmp.dircmp(folder / original / "inner", folder / "out" / "inner").diff_files
