"""The second process and its environment; comparing does an archive no harm."""

import logging
import subprocess
import sys

import brotli
import jax
import pytest

import llmjax
from llmjax.compression import results
from llmjax.compression.compress import compress
from llmjax.compression.decompress import decompress
from llmjax.compression.verification import GPU_FLAGS, child_environment, warn
from llmjax.errors import UserError
from llmjax.evaluation.baselines import COMPRESSORS, Compressor

PLAIN = {"dtype": "float32", "fallback": False}
TEXT = b"the quick brown fox jumps over the lazy dog. " * 4


def raising(error):
    """A compressor that fails."""

    def start(size):
        raise error

    return Compressor("none", start, bytes)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "Input/output error"), brotli.error("no memory")]
)
def test_a_comparison_that_fails_costs_no_archive(run, tmp_path, monkeypatch, caplog, error):
    monkeypatch.setattr(results, "COMPRESSORS", [raising(error)])
    (tmp_path / "in").write_bytes(TEXT)
    result = compress(run, tmp_path / "in", tmp_path / "a", verify=False, **PLAIN)
    assert result.baselines == ()
    assert "not compared" in caplog.text
    decompress(run, tmp_path / "a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == TEXT


def test_an_input_that_grows_after_it_was_compressed(run, tmp_path, caplog):
    (tmp_path / "in").write_bytes(TEXT)

    def grow(stage, done, total, written):
        if done == total:
            with open(tmp_path / "in", "ab") as file:
                file.write(b"x")

    options = PLAIN | {"verify": False, "progress": grow}
    assert compress(run, tmp_path / "in", tmp_path / "a", **options).baselines == ()
    assert "changed while it was read" in caplog.text
    assert (tmp_path / "a").exists()


def test_an_archive_has_its_name_before_anything_is_compared(run, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "COMPRESSORS", [raising(KeyboardInterrupt())])
    (tmp_path / "in").write_bytes(TEXT)
    with pytest.raises(KeyboardInterrupt):
        compress(run, tmp_path / "in", tmp_path / "a", verify=False, **PLAIN)
    assert (tmp_path / "a").exists()


@pytest.mark.once
def test_inputs_of_any_size_are_compared(run, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "SLOW", {"brotli 11": 100})
    (tmp_path / "in").write_bytes(TEXT)
    result = compress(run, tmp_path / "in", tmp_path / "a", verify=False, **PLAIN)
    names = [compressor.name for compressor in COMPRESSORS if compressor.name != "brotli 11"]
    assert [baseline.name for baseline in result.baselines] == names
    monkeypatch.setattr(results, "SLOW", {"brotli 11": 3 << 20})
    with open(tmp_path / "in", "wb") as file:
        file.truncate((3 << 20) + 1)
    result = compress(run, tmp_path / "in", tmp_path / "b", verify=False, **PLAIN)
    assert "  not compared: brotli 11, larger than 3 MiB" in str(result).splitlines()
    assert result.to_dict()["not_compared"] == {"brotli 11": 3 << 20}


@pytest.mark.once
def test_modules_of_the_users_folder_are_not_run(run, tmp_path, monkeypatch):
    """Also where the package is found in the user's folder alone: here by PYTHONPATH."""
    (tmp_path / "zstandard.py").write_text("raise SystemExit('ran what the user has')")
    (tmp_path / "in").write_bytes(TEXT)
    monkeypatch.chdir(tmp_path)
    assert compress(run, "in", "a", compare=False, **PLAIN).verify_seconds > 0


def test_a_checkout_is_found_from_anywhere(tmp_path):
    child = child_environment({"PATH": "/bin"}, "cpu")
    code = "import importlib.util; print(importlib.util.find_spec('llmjax').origin)"
    words = [sys.executable, "-P", "-S", "-c", code]  # without any installed package
    done = subprocess.run(words, env=child, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == llmjax.__file__
    both = child_environment({"PYTHONPATH": "/other"}, "cpu")["PYTHONPATH"].split(":")
    assert both[0] == child["PYTHONPATH"]
    assert both[-1] == "/other"


def test_a_process_that_breaks_is_quoted(run, tmp_path, monkeypatch):
    words = [
        "-c",
        "import sys; print('first', file=sys.stderr); raise ImportError('no such thing')",
    ]
    start = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda argv, **rest: start([argv[0], *words], **rest))
    (tmp_path / "in").write_bytes(TEXT)
    with pytest.raises(UserError, match=r"was not kept \(ImportError: no such thing\)"):
        compress(run, tmp_path / "in", tmp_path / "a", compare=False, **PLAIN)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_accelerators_programs_are_compiled_again():
    folder = jax.config.values["jax_compilation_cache_dir"]
    assert child_environment({}, "cpu")["JAX_COMPILATION_CACHE_DIR"] == folder != ""
    for platform in ("gpu", "tpu"):
        child = child_environment({}, platform)
        assert child["JAX_ENABLE_COMPILATION_CACHE"] == "0"
        assert "JAX_COMPILATION_CACHE_DIR" not in child
    code = "import jax; assert jax.config.jax_enable_compilation_cache is False"
    subprocess.run([sys.executable, "-c", code], env=child_environment({}, "gpu"), check=True)


def test_warnings_for_accelerators(caplog):
    caplog.set_level(logging.WARNING)
    warn("cpu", "", True)
    warn("gpu", " ".join(GPU_FLAGS), True)
    warn("tpu", "", False)
    assert caplog.text == ""
    warn("gpu", GPU_FLAGS[0], True)
    assert f"without XLA_FLAGS='{GPU_FLAGS[1]}'" in caplog.text
    warn("tpu", "", True)
    assert "--no-verify" in caplog.text


@pytest.mark.once
def test_the_device_is_released_unless_it_is_in_use(run, tmp_path):
    """A stand-in for an accelerator, in a process of its own: CPUs are released in the same way."""
    code = """
import sys, jax
from llmjax.compression import verification
from llmjax.compression.compress import compress
cleared = []
clear_backends = verification.clear_backends
verification.clear_backends = lambda: (cleared.append(1), clear_backends())
jax.config.update("jax_default_device", "cpu")  # products stay those of a CPU
jax.default_backend = lambda: "gpu"
settings = {"dtype": "float32", "fallback": False, "compare": False}
compress(sys.argv[1], sys.argv[2], sys.argv[3], **settings)
assert cleared == [1], "nothing of ours is left on the device"
array = jax.numpy.ones(3)
compress(sys.argv[1], sys.argv[2], sys.argv[3], overwrite=True, **settings)
assert cleared == [1] and array.sum() == 3, "what a caller holds there stays"
"""
    (tmp_path / "in").write_bytes(TEXT)
    words = [sys.executable, "-c", code, run, tmp_path / "in", tmp_path / "a"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
