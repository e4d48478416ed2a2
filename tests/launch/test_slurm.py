"""launch/slurm.sh on a SLURM of two nodes, where this machine has one."""

import json
import sys
from pathlib import Path

import pytest
from two_nodes import Cluster, NoSlurm, slurm, wait_for

ROOT = Path(__file__).parents[2]
STARTS, STOPS = 240.0, 90.0
"""Seconds that a run may take to start and to stop on a busy machine."""
FIELDS = """--steps 100000 --epochs none --checkpoint.every 50000 --evaluation.every 0
    --samples.every 0 --log.every 1 --data.batch-size 2 --data.workers 0""".split()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster whose jobs run the llmjax of this checkout, on one CPU device a process."""
    program = tmp_path / "llmjax"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmjax "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("LLMJAX", str(program))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    folder = tmp_path / "slurm"
    folder.mkdir()
    try:
        with slurm(folder) as cluster:
            yield cluster
    except NoSlurm as error:
        pytest.skip(str(error))


def submit(cluster: Cluster, run: Path) -> str:
    """The number of a job that trains on both nodes until it is stopped."""
    options = """--parsable --nodes=2 --gpus-per-node=0 --ntasks-per-node=1 --cpus-per-task=1
        --time=20""".split()
    output = f"--output={run.parent}/output"
    script = str(ROOT / "launch" / "slurm.sh")
    submitted = cluster.run(
        "sbatch", *options, output, script, "smoke", "--run-dir", str(run), *FIELDS
    )
    return submitted.strip()


def restarts(cluster: Cluster, job: str) -> int:
    shown = cluster.run("scontrol", "show", "job", job)
    return int(shown.partition("Restarts=")[2].split()[0])


def test_a_job_that_is_stopped_saves_and_is_queued_again(cluster, tmp_path):
    run, output = tmp_path / "run", tmp_path / "output"
    job = submit(cluster, run)
    metrics = run / "metrics.jsonl"
    assert wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, STARTS), (
        output.read_text()
    )
    cluster.run("scancel", "--signal=TERM", job)
    assert wait_for(lambda: restarts(cluster, job) == 1, STOPS), output.read_text()
    (saved,) = [path.name for path in (run / "checkpoints").iterdir() if path.name.isdecimal()]
    text = output.read_text()
    assert text.count(f"SIGTERM: saved step {saved}; start the same command again") == 2, text
    (session,) = json.loads((run / "environment.json").read_text())["sessions"]
    assert session["devices"]["processes"] == 2
