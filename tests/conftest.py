"""Eight virtual CPU devices for every test, before JAX starts."""

import gc
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS: tuple[str, ...] = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",  # tests compile far longer than they compute
    # A collective that lacks one of the 8 threads for 40 s aborts the process: too soon for a
    # loaded machine.
    "--xla_cpu_collective_call_terminate_timeout_seconds=300",
)
if version("jaxlib").startswith("0.10."):  # one that does not know a flag refuses to start
    _FLAGS += ("--xla_cpu_use_fusion_emitters=false",)  # half of the compilation
for _flag in _FLAGS:
    if _flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()
# What one test has compiled, no other one compiles again.
_COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests mostly trace: 8 % of that is recording whole tracebacks, a tenth is collecting garbage.
os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "0")
gc.set_threshold(200_000, 20, 20)

# A loaded machine is no fault: tests have no timings.
hypothesis.settings.register_profile("llmjax", deadline=None)
hypothesis.settings.load_profile("llmjax")

# Processes of tests are interrupted as from a terminal, also where the suite runs in a shell's
# background, which ignores SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """After thousands of programs in one process, XLA's compiler ends in a segmentation fault."""
    yield
    jax = sys.modules.get("jax")
    if jax is not None:
        jax.clear_caches()


@pytest.fixture
def command(capsys):
    """Runs a command line in this process: exit code, stdout, lines of stderr."""
    from llmjax.cli.main import main

    def run(*argv):
        code = main(argv)
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return run


def pytest_collection_modifyitems(items):
    """The longest one begins first, or one worker would end with it alone."""
    items.sort(key=lambda item: "test_readme" not in item.nodeid)
