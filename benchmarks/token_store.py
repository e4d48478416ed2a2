"""The speed of the data loader from a token store in a bucket, against one in the cache.

Command: python -m benchmarks.token_store [--latency 0 20 50] [--prefetch 4 16] [--seconds 5]
A process of its own serves S3 (moto, which also takes processor time for each request), and answers
each request after the latency. Nothing is kept between batches. Prints a table, then JSON.
"""

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bucket import Bucket, bucket
from llmjax.data.config import DataConfig
from llmjax.data.loader import CorpusFeed, Loader
from llmjax.data.text.corpus import Corpus, prepare
from llmjax.data.text.store_building import build_store
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig

SHAPES = ((16, 4096), (128, 2048))
"""Rows of a host and tokens of a row: 8 chips with 8 billion parameters, 8 with one."""
SHARDS = 8


def write_text(path: Path, megabytes: int) -> None:
    """Documents of 100 to 20,000 bytes."""
    generator = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(megabytes * 100):
            file.write(f"{number} " + "word " * generator.randrange(20, 4000) + "\n")


def measure(corpus: Corpus, config: DataConfig, seconds: float, requests: Any) -> dict[str, float]:
    """Tokens a second, and requests a step."""
    threads = 2 if config.store is None else max(2, config.prefetch)
    feed = CorpusFeed(corpus, config, seed=0)
    with Loader(feed, prefetch=config.prefetch, threads=threads) as loader:
        for _ in range(2 * config.prefetch):  # what was prepared ahead says nothing of the speed
            next(loader)
        before, began = requests.value, time.perf_counter()
        steps, now = 0, began
        while now - began < seconds:
            _, batch = next(loader)
            batch["targets"].block_until_ready()
            steps, now = steps + 1, time.perf_counter()
        asked = requests.value - before
    tokens = steps * config.batch_size * config.length
    return {"tokens_per_second": tokens / (now - began), "requests_per_step": asked / steps}


def table(config: DataConfig, options: argparse.Namespace, shared: Bucket) -> list[Any]:
    """Measures every row, and prints it."""
    latency, requests = shared
    remote = prepare(config, BytesConfig())[1]
    local_config = replace(config, store=None)
    local = prepare(local_config, BytesConfig())[1]
    rows: list[Any] = []
    print(
        f"{'store':>6} {'ms':>4} {'rows':>5} {'length':>7} {'ahead':>6} {'tokens/s':>12} requests"
    )
    for batch_size, length in SHAPES:
        cases = [(local, local_config, 0, 4)]
        cases += [
            (remote, config, ms, ahead) for ms in options.latency for ahead in options.prefetch
        ]
        for corpus, base, ms, ahead in cases:
            latency.value = ms / 1000
            shaped = replace(base, batch_size=batch_size, length=length, prefetch=ahead)
            found = measure(corpus, shaped, options.seconds, requests)
            where = "cache" if base.store is None else "bucket"
            row = {"store": where, "latency_ms": ms, "rows": batch_size, "length": length}
            rows.append({**row, "prefetch": ahead, **found})
            speed, asked = found.values()
            print(
                f"{where:>6} {ms:4} {batch_size:5} {length:7} {ahead:6} {speed:12,.0f} {asked:.1f}",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--latency", type=int, nargs="+", default=[0, 20, 50], help="milliseconds")
    parser.add_argument("--prefetch", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--seconds", type=float, default=5.0, help="per row of the table")
    parser.add_argument("--megabytes", type=int, default=64, help="of text")
    options = parser.parse_args()
    with bucket() as shared, tempfile.TemporaryDirectory() as name:
        text = Path(name, "text.txt")
        write_text(text, options.megabytes)
        config = DataConfig(
            (TextSource((str(text),), split="line"),),
            shards=SHARDS,
            cache_dir=name,
            store="s3://bucket/tokens",
            store_cache_bytes=0,
        )
        os.environ["LLMJAX_CACHE"] = name
        build_store(config, BytesConfig())
        rows = table(config, options, shared)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = {
        "benchmark": "token_store",
        "rows": rows,
        "peak_mib": round(memory),
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
