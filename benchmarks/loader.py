"""The speed of the data loader, without training.

Command: python -m benchmarks.loader [--seconds 3]
Counts the tokens of global batches that arrive on one device, after a warm-up batch. The corpus
(the embedded one, as bytes) is in the page cache. Prints a table, then JSON.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace

from llmjax.data.config import DataConfig
from llmjax.data.loader import CorpusFeed, Loader
from llmjax.data.progress import terminal_progress
from llmjax.data.text.corpus import prepare
from llmjax.data.text.tfds import EmbeddedSource
from llmjax.data.tokenizers.config import BytesConfig

SHAPES = ((16, 256), (64, 256), (64, 1024), (8, 8192))


def tokens_per_second(config: DataConfig, seconds: float) -> float:
    """Measures the loader for this many seconds."""
    _, corpus = prepare(config, BytesConfig())
    with Loader(CorpusFeed(corpus, config, seed=0)) as loader:
        next(loader)
        began = now = time.perf_counter()
        batches = 0
        while now - began < seconds:
            _, batch = next(loader)
            batch["targets"].block_until_ready()
            batches += 1
            now = time.perf_counter()
    return batches * config.batch_size * config.length / (now - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="per row of the table")
    seconds = parser.parse_args().seconds
    single = DataConfig((EmbeddedSource(),))
    mixture = replace(single, sources=(EmbeddedSource(weight=3.0), EmbeddedSource(weight=1.0)))
    with terminal_progress() as progress:
        prepare(single, BytesConfig(), None, progress)
    speeds = {}
    print(f"{'sources':>8} {'rows':>6} {'length':>7} {'tokens/s':>14}")
    for config in (single, mixture):
        for rows, length in SHAPES:
            speed = tokens_per_second(replace(config, batch_size=rows, length=length), seconds)
            speeds[f"sources={len(config.sources)},rows={rows},length={length}"] = round(speed)
            print(f"{len(config.sources):8} {rows:6} {length:7} {speed:14,.0f}", flush=True)
    line = {
        "benchmark": "loader",
        "tokens_per_second": speeds,
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
