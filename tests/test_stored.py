"""What earlier versions wrote: run folders, fine-tuned runs and archives open, resume, decompress.

Each folder of tests/stored holds one version's files and, in expected.json, what that version
itself computed from them.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORMATS = sorted(path.name for path in (ROOT / "tests" / "stored").iterdir())


@pytest.fixture(params=FORMATS)
def stored(request, tmp_path):
    """A copy of a version's files, as the current folder of a command; expected.json's content."""
    source = ROOT / "tests" / "stored" / request.param
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    return tmp_path, json.loads((source / "expected.json").read_text())


def llmjax(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, as a user would: on one plain CPU device."""
    known = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "llmjax", *words],
        cwd=folder,
        env=known | {"PYTHONPATH": str(ROOT), "LLMJAX_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def losses(folder: Path, run: str) -> dict[str, float]:
    """Of the training steps that a run has logged."""
    lines = map(json.loads, (folder / run / "metrics.jsonl").read_text().splitlines())
    return {str(line["step"]): line["loss"] for line in lines if line["kind"] == "train"}


def test_a_pretrained_run_evaluates_as_it_did(stored):
    folder, expected = stored
    process = llmjax(folder, "evaluate", "text_run", "--data", "text.txt", "--json")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    for name, value in expected["text"].items():
        assert result[name] == pytest.approx(value, rel=1e-4)


def test_a_pretrained_run_resumes_with_the_batches_it_would_have_had(stored):
    folder, expected = stored
    last = max(expected["text_losses"], key=int)
    result = llmjax(folder, "train", "text_run", "--steps", last, "--log.every", "1")
    assert result.returncode == 0, result.stderr
    new = losses(folder, "text_run")
    assert {step: new[step] for step in expected["text_losses"]} == pytest.approx(
        expected["text_losses"], rel=1e-3
    )


def test_a_fine_tuned_run_evaluates_predicts_and_resumes(stored):
    folder, expected = stored
    result = llmjax(folder, "evaluate", "tasks_run", "--json")
    assert result.returncode == 0, result.stderr
    tasks = json.loads(result.stdout.splitlines()[-1])["tasks"]
    evaluated = {name: task["loss"] for name, task in tasks.items()}
    assert evaluated == pytest.approx(expected["tasks"], rel=1e-3)

    words = ["--task", "classification", "--text", "the cat sees good"]
    result = llmjax(folder, "predict", "tasks_run", *words)
    assert result.returncode == 0, result.stderr
    prediction = json.loads(result.stdout.splitlines()[-1])
    assert prediction["label"] == expected["predicted"]["label"]
    assert prediction["probability"] == pytest.approx(
        expected["predicted"]["probability"], rel=1e-3
    )

    last = max(expected["task_losses"], key=int)
    result = llmjax(folder, "train", "tasks_run", "--steps", last)
    assert result.returncode == 0, result.stderr
    new = losses(folder, "tasks_run")
    assert {step: new[step] for step in expected["task_losses"]} == pytest.approx(
        expected["task_losses"], rel=2e-2
    )


@pytest.mark.parametrize("name", ["text", "folder"])
def test_an_archive_decompresses(stored, name):
    folder, _ = stored
    original = {"text": "part.txt", "folder": "folder"}[name]
    result = llmjax(folder, "decompress", "text_run", f"{name}.ljx", "out")
    if result.returncode == 2 and " was " in result.stderr:
        pytest.skip("made by another processor or version of JAX, which rounds otherwise")
    assert result.returncode == 0, result.stderr
    if name == "text":
        assert (folder / "out").read_bytes() == (folder / original).read_bytes()
    else:
        compared = filecmp.dircmp(folder / original, folder / "out")
        assert not compared.left_only + compared.right_only + compared.diff_files
        assert not filecmp.dircmp(folder / original / "inner", folder / "out" / "inner").diff_files
