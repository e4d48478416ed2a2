"""A requested platform that is not available is reported in one line by every command."""

import os
import subprocess
import sys
from dataclasses import replace

import jax
import pytest

import llmjax.cli.embed
import tiny
from llmjax.cli.embed import EMBED
from llmjax.cli.main import main
from llmjax.errors import UserError
from llmjax.parallel.devices import devices, platform_mistake
from llmjax.parallel.mesh import MeshConfig, make_mesh

UNKNOWN = (
    "Unable to initialize backend 'nonsense': Backend 'nonsense' is not in the list of known "
    "backends: ['cpu', 'tpu']. (set JAX_PLATFORMS='' to automatically choose an available backend)"
)


@pytest.fixture
def broken(monkeypatch):
    """Makes JAX raise an error for a requested platform."""

    before = jax.config.values["jax_platforms"]

    def use(error: Exception, requested: str) -> None:
        def failing():
            raise error

        monkeypatch.setattr(jax, "devices", failing)
        jax.config.update("jax_platforms", requested)

    yield use
    jax.config.update("jax_platforms", before)


@pytest.mark.parametrize(
    ("error", "requested", "messages"),
    [
        (AssertionError(), "cuda", ("no such device here", "pip install 'llmjax[cuda13]'")),
        (RuntimeError(UNKNOWN), "nonsense", ("not in the list of known backends", "unset")),
        (RuntimeError("Unable to initialize backend 'tpu': no libtpu"), "tpu", ("llmjax[tpu]",)),
    ],
)
def test_the_platform_what_is_installed_and_the_fix_are_named(broken, error, requested, messages):
    broken(error, requested)
    with pytest.raises(UserError) as caught:
        devices()
    assert str(caught.value).startswith(f"JAX_PLATFORMS={requested}: ")
    assert "installed: cpu" in str(caught.value)
    for part in messages:
        assert part in str(caught.value)


def test_devices_that_are_hidden_are_named(broken, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    broken(RuntimeError("Unable to initialize backend 'cuda': no visible GPU devices"), "cuda")
    with pytest.raises(UserError, match=r"no visible GPU devices \(CUDA_VISIBLE_DEVICES=\)"):
        make_mesh(MeshConfig())


def test_other_failures_are_not_the_platforms():
    assert devices() == jax.devices()
    assert platform_mistake(AssertionError()) is None
    assert platform_mistake(ValueError()) is None


def test_a_command_without_a_device_says_so(broken, monkeypatch, capsys):
    broken(AssertionError(), "cuda")

    def failing(_):
        jax.devices()

    monkeypatch.setattr(llmjax.cli.embed, "EMBED", replace(EMBED, run=failing))
    assert main(["embed", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("llmjax: error: JAX_PLATFORMS=cuda: there is no such device here")


def test_the_error_of_jax_itself():
    program = "from llmjax.parallel.devices import devices; devices()"
    environment = os.environ | {"JAX_PLATFORMS": "nonsense", "PYTHONPATH": str(tiny.HERE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("llmjax.errors.UserError: JAX_PLATFORMS=nonsense: there is no such")
