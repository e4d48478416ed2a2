"""Tests of what only a GPU computes. tests/conftest.py chooses CPUs unless JAX_PLATFORMS is set:

JAX_PLATFORMS=cuda python -m pytest -p no:xdist tests/gpu
"""

import jax
import pytest


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")
