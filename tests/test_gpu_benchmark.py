"""benchmarks/gpu.sh: its toy on a CPU, and how it ends parts, reports and refuses."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.gpu.parts import LLMJAX, PARTS, TORCH, Part
from benchmarks.gpu.processes import Outcome, reason_of, run_part
from benchmarks.gpu.report import lines_of, table
from benchmarks.gpu.shapes import LLAMA_1B
from llmjax.parallel.chips import CHIPS

ROOT = Path(__file__).parents[1]


def script(*arguments, **variables):
    """Runs the script on this Python, without a GPU."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable} | variables
    command = [str(ROOT / "benchmarks" / "gpu.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)


@pytest.mark.once
def test_the_toy(tmp_path):
    file = tmp_path / "gpu.json"
    parts = "train-1b-packed,train-1b-torch,decode,decode-transformers,tests"
    done = script("--toy", "--json", str(file), "--parts", parts)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == result
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    lines = result["lines"]
    measured = [line for line in lines if not line["note"].startswith("n/a")]
    cases = {(line["part"], line["case"]) for line in measured}
    expected = {("train-1b-packed", "packed"), ("tests", "tests/gpu")}
    expected |= {("decode", f"batch {rows}") for rows in (1, 16, 128)}
    if find_spec("torch") and find_spec("transformers"):
        expected |= {("train-1b-torch", "not packed")}
        expected |= {("decode-transformers", f"batch {rows}") for rows in (1, 16, 128)}
        compared = {line["part"] for line in measured if line["ratio"]}
        assert compared == {"train-1b-packed", "decode"}
        notes = [line["note"] for line in lines if line["part"] == "decode-transformers"]
        assert "first token as llmjax's in 1 of 1" in notes, "the same weights"
    (tests,) = (line["note"] for line in lines if line["part"] == "tests")
    assert "skipped" in tests
    assert cases == expected, [line["note"] for line in lines]
    assert not [line for line in lines if line["share"] is not None], "a CPU has no known peak"


def test_without_a_gpu_it_says_so(tmp_path):
    done = script("--json", str(tmp_path / "gpu.json"))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "no GPU" in line
    assert "--toy" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "python", "text"),
    [
        (["--python", "/nowhere/python"], sys.executable, "there is no /nowhere/python"),
        (["--toy", "--parts", "train-2b"], sys.executable, "no such part"),
    ],
)
def test_refusals_are_one_line(arguments, python, text):
    done = script(*arguments, PYTHON=python)
    assert done.returncode == 2
    assert text in done.stderr.splitlines()[-1]


def test_a_python_without_jax_says_what_to_install(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')  # no packages
    python.chmod(0o755)
    done = script("--toy", PYTHON=str(python))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "lacks jax, flax, optax" in line
    assert "pip install" in line


ONLY = """
import sys

BLOCKED = "grain orbax pyarrow pydantic qwix sentencepiece sklearn tokenizers torch"

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED.split():
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import benchmarks.gpu.__main__, benchmarks.gpu.decode_jax, benchmarks.gpu.train_jax
import llmjax.decoding.steps
"""


def test_training_and_decoding_need_jax_flax_and_optax_alone():
    """As on a machine that is not set up for llmjax."""
    done = subprocess.run([sys.executable, "-c", ONLY], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


ROW = '{"case": "packed", "rate": 10.0}'
SCRIPTS = {
    "slow": f"import time; print('{ROW}', flush=True); time.sleep(60)",
    "missing": "import a_package_that_nobody_has.part",
    "raises": f"print('{ROW}'); raise ValueError('out of memory')",
    "silent": "pass",
}
REASONS = {
    "slow": "ended after 1 s",
    "missing": "needs a_package_that_nobody_has: pip install a-package-that-nobody-has",
    "raises": "ValueError: out of memory",
    "silent": "it printed no result",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_part_that_fails_keeps_its_results_and_says_why(name, tmp_path):
    (tmp_path / f"part_{name}.py").write_text(SCRIPTS[name])
    part = Part(name, "x", LLMJAX, f"part_{name}", (), 1, 1)
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    outcome = run_part(part, tmp_path, 0.0, True, 1.0 if name == "slow" else 60.0, variables)
    assert outcome.reason == REASONS[name]
    assert outcome.rows == ([json.loads(ROW)] if name in ("slow", "raises") else [])


def test_reasons_are_short():
    assert len(reason_of("E" * 1000, 1)) < 200
    assert reason_of("", 9) == "exit code 9"
    # An optional package that lacks is no reason if another error came after it.
    both = "ModuleNotFoundError: No module named 'x'\nRuntimeError: out of memory\nmore"
    assert reason_of(both, 1) == "RuntimeError: out of memory"


def test_lines_count_flops_alike_and_compare_what_is_alike():
    shape = vars(LLAMA_1B)
    part = {each.name: each for each in PARTS}

    def row(rate, case, **fields):
        base = {"case": case, "rate": rate, "unit": "tokens", "seconds": 1.0, "peak_bytes": 2**30}
        return base | {"note": "", "weight_bytes": None, "shape": None} | fields

    outcomes = [
        Outcome(part["train-1b-packed"], [row(300.0, "packed", shape=shape)]),
        Outcome(part["train-1b-torch"], [row(200.0, "not packed", shape=shape)]),
        Outcome(part["decode"], [row(8.0, "batch 1", weight_bytes=3.35e12 / 2)]),
        Outcome(part["decode-transformers"], reason="needs transformers"),
    ]
    ours, theirs, decoding, absent = lines_of(outcomes, CHIPS["h100"])
    assert ours["ratio"] == 1.5
    assert ours["share"] == pytest.approx(1.5 * theirs["share"])
    assert theirs["by"] == TORCH
    assert decoding["share"] == pytest.approx(0.5), "of the bandwidth"
    assert decoding["ratio"] is None
    assert absent["note"] == "n/a: needs transformers"
    assert lines_of(outcomes, None)[0]["share"] is None
    assert len(table([ours, theirs, decoding, absent]).splitlines()) == 5


def test_the_parts_have_their_own_names():
    assert len({part.name for part in PARTS}) == len(PARTS)
