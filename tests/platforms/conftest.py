"""Programs for accelerators, built where there is none."""

from types import SimpleNamespace

import pytest


@pytest.fixture(autouse=True)
def cudnn(monkeypatch):
    """As if cuDNN were installed: JAX asks for its version before it traces a call of it."""
    there = SimpleNamespace(cudnn_get_version=lambda: 91200)
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.cuda_versions", there)
