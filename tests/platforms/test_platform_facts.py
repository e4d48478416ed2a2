"""Properties of devices: name, memory, speed."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from llmjax.compression import fingerprint, plan
from llmjax.run import environment
from llmjax.run.config.files import load_config_file
from llmjax.run.telemetry import throughput
from llmjax.training import processes

H100, UNKNOWN = "NVIDIA H100 80GB HBM3", "NVIDIA Something New"


def devices_of(kinds, stats=None):
    return lambda: [
        SimpleNamespace(platform="gpu", device_kind=kind, memory_stats=lambda: stats)
        for kind in kinds
    ]


@pytest.mark.parametrize(
    ("kinds", "peak"),
    [([H100], 989e12), ([H100] * 8, 8 * 989e12), ([H100, UNKNOWN], None), (["TPU v4"], 275e12)],
)
def test_peak_flops(kinds, peak, monkeypatch):
    monkeypatch.setattr(jax, "devices", devices_of(kinds))
    assert throughput.peak_flops() == peak


@pytest.mark.parametrize(
    ("stats", "most"),
    [(None, None), ({}, None), ({"bytes_in_use": 5}, None), ({"peak_bytes_in_use": 7}, 7)],
)
def test_memory(stats, most, monkeypatch):
    """Some allocators report nothing, or no peak."""
    monkeypatch.setattr(jax, "local_devices", devices_of([H100, H100], stats))
    assert throughput.memory_bytes() == most


def test_where_a_run_ran_and_an_archive_was_made(monkeypatch):
    monkeypatch.setattr(jax, "devices", devices_of([UNKNOWN]))
    devices = environment.session()["devices"]
    assert (devices["platform"], devices["kind"]) == ("gpu", UNKNOWN)
    made = fingerprint.environment()
    assert (made["platform"], made["device"]) == ("gpu", UNKNOWN)


@pytest.mark.parametrize(("backend", "single"), [("gpu", True), ("tpu", True), ("cpu", False)])
def test_streams_are_divided_among_the_cores_of_a_cpu_alone(backend, single, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(plan.os, "sched_getaffinity", lambda _: range(4), raising=False)
    assert plan.default_groups(64) == (1 if single else 4)


@pytest.mark.parametrize("backend", ["gpu", "tpu", "cpu"])
def test_freed_memory_is_kept_on_a_cpu_alone(backend, tmp_path, monkeypatch):
    """There, the C library allocates a step's buffers."""
    kept = []
    monkeypatch.setattr(processes, "keep_freed_memory", lambda: kept.append(True))
    here = [SimpleNamespace(platform=backend)]
    monkeypatch.setattr(processes, "all_devices", lambda: here)
    config = load_config_file("smoke")
    data = dataclasses.replace(config.data, cache_dir=str(tmp_path))
    processes.start_devices(dataclasses.replace(config, cpu_devices=None, data=data))
    assert kept == [True] * (backend == "cpu")


@pytest.mark.parametrize(
    ("backend", "count", "stored"), [("cpu", 1, True), ("cpu", 2, False), ("gpu", 2, True)]
)
def test_programs_are_stored_unless_several_processes_compile_for_cpus(
    backend, count, stored, monkeypatch
):
    """Their keys differ there, and only process 0 would find its own."""
    folders = []
    monkeypatch.setattr(processes, "enable_compilation_cache", folders.append)
    monkeypatch.setattr(processes, "all_devices", lambda: [SimpleNamespace(platform=backend)])
    monkeypatch.setattr(processes.distributed, "join", lambda watchdog: None)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    processes.start_devices(dataclasses.replace(load_config_file("smoke"), cpu_devices=None))
    assert bool(folders) == stored
