"""One process of several: trains the runs of some config files, and writes down what it saw.

Usage: worker.py DEVICES CONFIG.json ...
"""

import json
import sys
from pathlib import Path

import jax
from jax.experimental import multihost_utils

import llmjax.training.train
import runs
from llmjax.data.loader import Loader
from llmjax.run.config.storage import from_json


class Recording(Loader):
    """Keeps the digest of every global batch."""

    seen: dict[int, str] = {}  # noqa: RUF012

    def __next__(self):
        step, batch = super().__next__()
        whole = {
            name: multihost_utils.process_allgather(x, tiled=True) for name, x in batch.items()
        }
        self.seen[step] = runs.digest(whole)
        return step, batch


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    llmjax.training.train.Loader = Recording
    for path in map(Path, sys.argv[2:]):
        Recording.seen = {}
        llmjax.training.train.train(from_json(path.read_text()))
        world = {"processes": jax.process_count(), "devices": jax.device_count()}
        seen = {"batches": Recording.seen, **world}
        path.with_suffix(f".{jax.process_index()}").write_text(json.dumps(seen))
