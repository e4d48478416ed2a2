"""What a device sends and holds in a training step does not grow with the number of devices."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from growth import VOCABULARY, WIDTH

FEW, MANY = {"data": 2, "fsdp": 4}, {"data": 8, "fsdp": 8}
TABLE = 4 * VOCABULARY * WIDTH
"""Bytes of the embedding in float32, and of the LM head."""


@pytest.fixture(scope="module")
def measured():
    """What a device of 8 and what one of 64 sends and holds."""
    flags = re.sub(r"(device_count)=\d+", r"\1=64", os.environ["XLA_FLAGS"])
    root = Path(__file__).parents[2]
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(root / "tests/growth.py"), json.dumps([FEW, MANY])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_bytes_do_not_grow(measured):
    """By kind and axes, before the factor (n - 1) / n of a ring. With replicated logits, gathers
    and temporaries would."""
    few, many = measured
    assert {"data", "fsdp"} <= {name.split()[-1] for name in few["moved"]}
    for name, size in many["moved"].items():
        assert size <= few["moved"].get(name, 0), name
    assert many["temporary"] <= few["temporary"]


def test_the_state_is_split(measured):
    """Over fsdp, which is twice as large; the batch of a device stays."""
    few, many = (sizes["arguments"] for sizes in measured)
    assert many < 0.51 * few


def test_gradients_of_tables_are_scattered(measured):
    """No device receives the whole gradient of the embedding or the LM head as a sum."""
    for sizes in measured:
        assert sizes["moved"]["all-reduce over fsdp"] < TABLE
        assert sizes["moved"]["reduce-scatter over fsdp"] >= 2 * TABLE
