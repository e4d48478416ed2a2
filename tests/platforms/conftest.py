"""Programs for accelerators, traced and lowered without one."""

from types import SimpleNamespace

import pytest


@pytest.fixture(autouse=True)
def cudnn(monkeypatch):
    """Pretends that cuDNN is installed: JAX checks its version before tracing a call."""
    there = SimpleNamespace(cudnn_get_version=lambda: 91200)
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.cuda_versions", there)
