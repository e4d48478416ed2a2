"""The second process: what it runs with, what is said of it. Comparing does an archive no harm."""

import logging
import subprocess
import sys

import brotli
import jax
import pytest

from llmjax.compression import summary
from llmjax.compression.compressing import compress
from llmjax.compression.decompressing import decompress
from llmjax.compression.verifying import GPU_FLAGS, surroundings, warn
from llmjax.errors import UserError
from llmjax.evaluation.baselines import COMPRESSORS

PLAIN = {"dtype": "float32", "fallback": False}
TEXT = b"the quick brown fox jumps over the lazy dog. " * 4


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "Input/output error"), brotli.error("no memory")]
)
def test_comparing_that_fails_costs_no_archive(run, tmp_path, monkeypatch, caplog, error):
    def fails(*args):
        raise error

    monkeypatch.setattr(summary, "measure_parts", fails)
    (tmp_path / "in").write_bytes(TEXT)
    found = compress(run, tmp_path / "in", tmp_path / "a", verify=False, **PLAIN)
    assert found.baselines == ()
    assert "not compared" in caplog.text
    decompress(run, tmp_path / "a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == TEXT


def test_an_input_that_grows_after_verifying(run, tmp_path, monkeypatch, caplog):
    (tmp_path / "in").write_bytes(TEXT)

    def grows(*args):
        with open(tmp_path / "in", "ab") as file:
            file.write(b"x")

    monkeypatch.setattr("llmjax.compression.compressing.verify_archive", grows)
    assert compress(run, tmp_path / "in", tmp_path / "a", **PLAIN).baselines == ()
    assert "changed while it was read" in caplog.text
    assert (tmp_path / "a").exists()


def test_an_archive_has_its_name_before_anything_is_compared(run, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(summary, "measure_parts", interrupted)
    (tmp_path / "in").write_bytes(TEXT)
    with pytest.raises(KeyboardInterrupt):
        compress(run, tmp_path / "in", tmp_path / "a", verify=False, **PLAIN)
    assert (tmp_path / "a").exists()


def test_inputs_of_any_size_are_compared(run, tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "SLOW", {"brotli 11": 100})
    (tmp_path / "in").write_bytes(TEXT)
    found = compress(run, tmp_path / "in", tmp_path / "a", verify=False, **PLAIN)
    names = [one.name for one in COMPRESSORS if one.name != "brotli 11"]
    assert [one.name for one in found.baselines] == names
    monkeypatch.setattr(summary, "SLOW", {"brotli 11": 3 << 20})
    with open(tmp_path / "in", "wb") as file:
        file.truncate((3 << 20) + 1)
    found = compress(run, tmp_path / "in", tmp_path / "b", verify=False, **PLAIN)
    assert "  not compared: brotli 11, larger than 3 MiB" in str(found).splitlines()
    assert found.to_dict()["not_compared"] == {"brotli 11": 3 << 20}


def test_modules_of_the_users_folder_are_not_run(run, tmp_path, monkeypatch):
    """Also where the package is found in the user's folder alone: here by PYTHONPATH."""
    (tmp_path / "zstandard.py").write_text("raise SystemExit('ran what the user has')")
    (tmp_path / "in").write_bytes(TEXT)
    monkeypatch.chdir(tmp_path)
    assert compress(run, "in", "a", compare=False, **PLAIN).verify_seconds > 0


def test_a_checkout_is_found_from_anywhere(tmp_path):
    theirs = surroundings({"PATH": "/bin"}, "cpu")
    words = [sys.executable, "-P", "-S", "-c", "import llmjax; print(llmjax.__version__)"]
    assert subprocess.run(words, env=theirs, cwd=tmp_path, capture_output=True).returncode == 0
    both = surroundings({"PYTHONPATH": "/other"}, "cpu")["PYTHONPATH"].split(":")
    assert both[0] == theirs["PYTHONPATH"]
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


def test_an_accelerators_programs_are_compiled_anew():
    folder = jax.config.values["jax_compilation_cache_dir"]
    assert surroundings({}, "cpu")["JAX_COMPILATION_CACHE_DIR"] == folder != ""
    for platform in ("gpu", "tpu"):
        theirs = surroundings({}, platform)
        assert theirs["JAX_ENABLE_COMPILATION_CACHE"] == "0"
        assert "JAX_COMPILATION_CACHE_DIR" not in theirs
    code = "import jax; assert jax.config.jax_enable_compilation_cache is False"
    subprocess.run([sys.executable, "-c", code], env=surroundings({}, "gpu"), check=True)


def test_what_an_accelerator_needs_is_said(caplog):
    caplog.set_level(logging.WARNING)
    warn("cpu", "", True)
    warn("gpu", " ".join(GPU_FLAGS), True)
    warn("tpu", "", False)
    assert caplog.text == ""
    warn("gpu", GPU_FLAGS[0], True)
    assert f"without XLA_FLAGS='{GPU_FLAGS[1]}'" in caplog.text
    warn("tpu", "", True)
    assert "--no-verify" in caplog.text


def test_the_device_is_given_back_unless_it_is_in_use(run, tmp_path):
    """A stand-in for an accelerator, in a process of its own: CPUs are let go in the same way."""
    code = """
import sys, jax
from llmjax.compression import compressing, verifying
cleared = []
real = verifying.clear_backends
verifying.clear_backends = lambda: (cleared.append(1), real())
verifying.jax.default_backend = lambda: "gpu"
compressing.verify_archive = lambda *args: None
settings = {"dtype": "float32", "fallback": False, "compare": False}
compressing.compress(sys.argv[1], sys.argv[2], sys.argv[3], **settings)
assert cleared == [1], "nothing of ours is left on the device"
mine = jax.numpy.ones(3)
compressing.compress(sys.argv[1], sys.argv[2], sys.argv[3], overwrite=True, **settings)
assert cleared == [1] and mine.sum() == 3, "what a caller holds there stays"
"""
    (tmp_path / "in").write_bytes(TEXT)
    words = [sys.executable, "-c", code, run, tmp_path / "in", tmp_path / "a"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
