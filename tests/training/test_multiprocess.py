"""Two processes of four devices each train the model that one process of eight trains."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import runs
import tiny
from llmjax.data.loader import batch_at
from llmjax.data.text.corpus import prepare
from llmjax.errors import HUNG, UserError
from llmjax.parallel import distributed
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint import files
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import to_json
from llmjax.scoring.config import EvaluationConfig
from llmjax.scoring.evaluation_tasks import ChooseTask
from llmjax.training.train import train

MESH = MeshConfig(data=2, fsdp=2, tensor=2)
PATH = os.pathsep.join(map(str, (tiny.HERE, tiny.HERE.parent)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train_in_processes(configs: list[Config], folder: Path, count: int, devices: int) -> list:
    """Trains one run after the other in `count` processes; returns each process's record of each
    run, as worker.py writes it."""
    paths = [folder / f"config{index}.json" for index in range(len(configs))]
    for path, config in zip(paths, configs, strict=True):
        path.write_text(to_json(config))
    environment = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": PATH,
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
    }
    command = [sys.executable, str(tiny.HERE / "worker.py"), str(devices), *map(str, paths)]
    own = [
        {
            "JAX_PROCESS_ID": str(index),
            "LLMJAX_CACHE": str(folder / f"cache{index}"),
            "HOME": str(folder / f"home{index}"),
        }
        for index in range(count)
    ]
    workers = [subprocess.Popen(command, env=environment | variables) for variables in own]
    try:
        while None in (codes := [worker.poll() for worker in workers]):
            assert not any(codes), codes
            time.sleep(0.05)
        assert codes == [0] * count
    finally:
        for worker in workers:
            worker.kill()
    return [
        [json.loads(path.with_suffix(f".{index}").read_text()) for index in range(count)]
        for path in paths
    ]


def test_two_processes_are_one_and_one_goes_on_as_two(tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "half")]
    for folder in folders:
        folder.mkdir()
    quiz = tmp_path / "quiz.jsonl"
    quiz.write_text('{"question": "the old", "choices": [" cat", " sees"], "answer": 0}\n' * 3)
    tasks = EvaluationConfig(
        every=4, max_tokens=64, batch_size=8, tasks=(ChooseTask((str(quiz),)),)
    )
    single = runs.config(folders[0], mesh=MESH)
    train(replace(single, evaluation=tasks))
    shutil.copytree(folders[0] / "run", folders[2] / "run")
    for step in ("6", "8"):
        shutil.rmtree(folders[2] / "run" / "checkpoints" / step)

    configs = [replace(single, run_dir=str(folder / "run")) for folder in folders[1:]]
    configs[0] = replace(configs[0], evaluation=tasks)
    data = replace(single.data, shards=5, cache_dir=str(tmp_path / "shared"))
    configs.append(replace(single, run_dir=str(tmp_path / "sharded"), data=data))
    unshared = replace(data, cache_dir=None)  # LLMJAX_CACHE, of which each process has its own
    configs.append(replace(single, run_dir=str(tmp_path / "unshared"), data=unshared, steps=3))
    fresh, resumed, *sharded = train_in_processes(configs, tmp_path, count=2, devices=4)
    assert all((seen["processes"], seen["devices"]) == (2, 8) for seen in fresh)
    losses = [[line["loss"] for line in runs.metrics(folder / "run")] for folder in folders]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(losses[2], losses[0], rtol=0, atol=1e-6)

    for kind, count in (("tasks", 2), ("eval", 2)):
        one, two = (runs.metrics(folder / "run", kind) for folder in folders[:2])
        assert len(one) == count
        for expected, line in zip(one, two, strict=True):
            assert _figures(line) == pytest.approx(_figures(expected), abs=1e-6)

    assert files.damage(folders[1] / "run" / "checkpoints", 8) is None
    sums = json.loads((folders[1] / "run" / "checkpoints" / "8" / "checksums.json").read_text())
    assert any("ocdbt.process_1/d/" in name for name in sums)

    expected = batches(single)
    for process in range(2):
        assert fresh[process]["batches"] == expected
        assert resumed[process]["batches"] == {step: expected[step] for step in "4567"}

    alone = replace(data, cache_dir=str(tmp_path / "alone"))
    expected = batches(replace(single, data=alone))
    assert [seen["batches"] for seen in sharded[0]] == [expected] * 2
    assert [seen["batches"] for seen in sharded[1]] == [{n: expected[n] for n in "012"}] * 2
    assert sorted(path.name for path in tmp_path.glob("cache?")) == ["cache0", "cache1"]


def _figures(line: dict) -> dict[str, float]:
    """What a line of metrics.jsonl says of the model, without times."""
    return {name: value for name, value in line.items() if "." in name or name in ("step", "loss")}


def batches(config: Config) -> dict[str, str]:
    """The digest of the batch of each step, with the text prepared by this process."""
    _, corpus = prepare(config.data, config.tokenizer)
    return {
        str(step): runs.digest(batch_at(corpus, config.data, config.seed, step))
        for step in range(8)
    }


def explicit(count: int) -> list[dict[str, str]]:
    """The three variables of each process."""
    address = f"127.0.0.1:{free_port()}"
    world = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [world | {"JAX_PROCESS_ID": str(index)} for index in range(count)]


def open_mpi(count: int) -> list[dict[str, str]]:
    """The variables of each process under mpirun, from which JAX finds its coordinator."""
    job = free_port() % 4096
    world = {
        "OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": str(count),
    }
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "JAX_PROCESS_ID")
    return [world | dict.fromkeys(names, str(index)) for index in range(count)]


def start(
    folder: Path, configs: list[Config], *signals: str, launcher=explicit
) -> list[subprocess.Popen]:
    """A process of one device for each config, running `llmjax train` as commanded.py does."""
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONPATH": PATH}
    started = []
    variables = launcher(len(configs))
    for index, (config, own) in enumerate(zip(configs, variables, strict=True)):
        path = folder / f"own{index}.json"
        path.write_text(to_json(config))
        command = [sys.executable, str(tiny.HERE / "commanded.py"), str(path), *signals]
        env = os.environ | flags | own
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    return started


def ends(started: list[subprocess.Popen]) -> list[tuple[int, list[str]]]:
    """Exit code and llmjax's lines of each process."""
    try:
        errors = [process.communicate(timeout=150)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    lines = [[line for line in err.splitlines() if line.startswith("llmjax: ")] for err in errors]
    return [(process.returncode, own) for process, own in zip(started, lines, strict=True)]


@pytest.mark.once
def test_a_process_that_is_killed_is_named_with_its_step(tmp_path):
    config = runs.config(tmp_path, mesh=MeshConfig(data=2, fsdp=1))
    (killed, _), (code, lines) = ends(start(tmp_path, [config] * 2, "SIGKILL", "0", "step", "5"))
    assert killed == -signal.SIGKILL
    assert code == 1
    assert lines[-1].startswith("llmjax: error: process 0 (host ")
    assert lines[-1].endswith("start the same command again to resume from step 4")


@pytest.mark.once
def test_a_process_that_stops_answering_is_named_under_a_launcher_too(tmp_path):
    """SIGSTOP: it is not dead, and the kernel answers in its place."""
    config = runs.config(tmp_path, mesh=MeshConfig(data=2, fsdp=1))
    config = replace(config, log=replace(config.log, watchdog=20))
    started = start(tmp_path, [config] * 2, "SIGSTOP", "1", "step", "5", launcher=open_mpi)
    try:
        text = started[0].communicate(timeout=400)[1]
        assert started[0].returncode == HUNG
        last = [line for line in text.splitlines() if line.startswith("llmjax: ")][-1]
        assert last.startswith("llmjax: error: process 1 (host ")
        assert "hangs at step 6: " in last
        assert last.endswith("; start the same command again to resume from step 4")
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.once
def test_a_slow_process_is_named(tmp_path):
    config = runs.config(tmp_path, mesh=MeshConfig(data=2, fsdp=1), steps=10)
    config = replace(config, checkpoint=replace(config.checkpoint, every=100))
    (code, lines), _ = ends(start(tmp_path, [config] * 2, "SIGTERM", "1", "delay", "300"))
    assert code == 0
    named = [line for line in lines if "keeps the others waiting" in line]
    assert len(named) == 1, "once, not at each logged step"
    assert "process 1 (host " in named[0]
    last = runs.metrics(tmp_path / "run")[-1]
    assert last["straggler"] == 1
    assert 0.3 <= last["straggler_seconds"] < 1
    assert last["typical_seconds"] < 0.2


@pytest.mark.once
def test_an_evaluation_is_left_by_all_processes_at_the_same_batch(tmp_path):
    evaluation = EvaluationConfig(every=4, batch_size=2, max_tokens=256)
    config = runs.config(tmp_path, mesh=MeshConfig(data=2, fsdp=1), evaluation=evaluation)
    first = ends(start(tmp_path, [config] * 2, "SIGTERM", "1", "batch", "2"))
    assert [code for code, _ in first] == [75, 75]
    assert all("saved step 4; start the same command" in lines[-1] for _, lines in first)
    assert runs.metrics(tmp_path / "run", "eval") == []
    second = ends(start(tmp_path, [config] * 2))
    assert [code for code, _ in second] == [0, 0]
    assert [line["step"] for line in runs.metrics(tmp_path / "run", "eval")] == [4, 8]


@pytest.mark.once
def test_another_config_is_refused_by_all_and_leaves_no_folder(tmp_path):
    config = runs.config(tmp_path, mesh=MeshConfig(data=2, fsdp=1))
    ended = ends(start(tmp_path, [config, replace(config, seed=3)]))
    assert [code for code, _ in ended] == [2, 2]
    for _, lines in ended:  # whichever was first to leave
        assert "process 1: has another config than process 0: seed 0 there, 3 here" in lines[-1]
    assert not (tmp_path / "run").exists()


def test_a_plain_machine_is_alone():
    assert distributed.explicit({}) is None
    assert not distributed.launched({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"})
    assert not distributed.launched({"OMPI_COMM_WORLD_SIZE": "", "TPU_WORKER_HOSTNAMES": "host"})


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "16"},
        {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"},
        {"LLMJAX_DISTRIBUTED": "1"},
    ],
)
def test_launchers_are_known_by_their_variables(environment):
    assert distributed.launched(environment)


def test_what_is_spelt_out_is_taken_and_contradictions_are_refused():
    good = {
        "JAX_COORDINATOR_ADDRESS": "host:1234",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "3",
    }
    assert distributed.explicit(good) == ("host:1234", 4, 3)
    for change, message in [
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID: not set"),
        ({"JAX_PROCESS_ID": "4"}, "from 0 to N - 1"),
        ({"JAX_NUM_PROCESSES": "two"}, "from 0 to N - 1"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "HOST:PORT"),
    ]:
        with pytest.raises(UserError, match=message):
            distributed.explicit(good | change)
