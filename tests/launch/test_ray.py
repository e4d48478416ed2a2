"""launch/ray_train.py on a cluster that Ray starts on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
FIELDS = """--steps 4 --epochs none --optimizer.schedule.warmup-steps 1 --evaluation.every 0
    --samples.every 0 --log.every 1 --data.batch-size 4 --data.workers 0""".split()


def launch(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: text for name, text in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "ray_train.py"), *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_two_processes_of_a_cluster_train_one_model(tmp_path):
    run = tmp_path / "run"
    cache = {"LLMJAX_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    place = ["--gpus", "0", "--cpus", "1", "2"]
    done = launch(*place, "smoke", "--run-dir", str(run), *FIELDS, **cache)
    if "timed out during startup" in done.stderr:
        pytest.skip("Ray itself does not start here in time")
    assert done.returncode == 0, done.stderr
    (session,) = json.loads((run / "environment.json").read_text())["sessions"]
    assert session["devices"]["processes"] == 2
    assert [path.name for path in (run / "checkpoints").iterdir()].count("4") == 1


def test_a_wrong_command_line_starts_nothing():
    done = launch("0", "smoke")
    assert done.returncode == 2
    assert "usage:" in done.stderr
