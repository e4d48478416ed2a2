"""One process of several: trains the runs of some config files, and writes down what it saw.

Usage: worker.py DEVICES CONFIG.json ...
"""

import json
import sys
from pathlib import Path

import jax
import pytest
from jax.experimental import multihost_utils

import runs
from llmjax.run.config.storage import from_json
from llmjax.training.train import train


def global_digest(batch) -> str:
    gathered = {
        name: multihost_utils.process_allgather(array, tiled=True) for name, array in batch.items()
    }
    return runs.digest(gathered)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    digests: dict[int, str] = {}

    def record(step, batch):
        digests[step] = global_digest(batch)

    runs.before_step(pytest.MonkeyPatch(), record)
    for path in map(Path, sys.argv[2:]):
        digests.clear()
        train(from_json(path.read_text()))
        world = {"processes": jax.process_count(), "devices": jax.device_count()}
        seen = {"batches": digests, **world}
        path.with_suffix(f".{jax.process_index()}").write_text(json.dumps(seen))
