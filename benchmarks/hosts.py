"""Compares the batches of one, two and four hosts, and of stores that were built in other ways.

Command: python -m benchmarks.hosts [--hosts 1 2 4] [--steps 10] [--seed 0]
The hosts are processes of `launch/local.sh` with a cache of their own each; they prepare or open
the text as training does, and read batches with its loader at random steps. The same text is
tokenized in the cache, by each host; by the hosts together, in shards; in a token store in a
folder, by this program or by datatrove; and in a bucket, on an S3 server that runs meanwhile.
Prints a line per number of hosts and store, then JSON; exits with 1 if a batch differs from that of
one host that reads the cache, with as many shards.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from benchmarks.bucket import bucket
from llmjax.data.config import DataConfig
from llmjax.data.datatrove.executors import LocalExecutor
from llmjax.data.loader import CorpusFeed, Loader
from llmjax.data.text.store_building import build_store
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.training.pretraining import prepare_text, share_text
from llmjax.training.processes import start_devices

ROOT = Path(__file__).resolve().parent.parent
BATCH, LENGTH, SHARDS, FARTHEST = 16, 128, 4, 10_000
STORES = ("cache", "folder", "bucket", "datatrove")


def write_text(folder: Path) -> None:
    """Two sources of different words."""
    for name, words in (("a", ("red", "green", "blue")), ("b", ("one", "two", "three", "four"))):
        rng = random.Random(name)
        lines = (" ".join(rng.choices(words, k=rng.randrange(5, 200))) for _ in range(3000))
        (folder / f"{name}.txt").write_text("\n".join(lines))


def data_configs(root: Path) -> Iterator[tuple[str, int, DataConfig]]:
    """Each store's name, its shards, and the config that opens it, without a cache."""
    paths = [((str(root / f"{name}.txt"),), weight) for name, weight in (("a", 2.0), ("b", 1.0))]
    sources = tuple(TextSource(path, split="line", weight=weight) for path, weight in paths)
    for shards in (1, SHARDS):
        for name in STORES if shards > 1 else STORES[:3]:
            bucket = f"s3://bucket/{shards}"
            store = {"cache": None, "bucket": bucket}.get(name, str(root / f"{name}-{shards}"))
            yield name, shards, DataConfig(sources, BATCH, LENGTH, shards=shards, store=store)


def host(root: Path, steps: list[int]) -> None:
    """One of the hosts: reads the batches from every store; the first one writes their digests."""
    cache = root / f"cache{os.environ.get('JAX_PROCESS_ID', '0')}-of-{os.environ['HOSTS']}"
    config = Config(run_dir=str(cache / "run"), tokenizer=BytesConfig(), cpu_devices=1)
    start_devices(config)
    mesh = make_mesh(MeshConfig(data=jax.process_count()))
    found = []
    for name, shards, data in data_configs(root):
        config = replace(config, data=replace(data, cache_dir=str(cache), workers=1))
        run = Run(Path(config.run_dir))
        if config.data.is_sharded and config.data.store is None:
            share_text(config, run)
        _, corpus = prepare_text(config, run)
        feed = CorpusFeed(corpus, config.data, config.seed)
        digests = []
        for step in steps:
            with Loader(feed, mesh, step, prefetch=1, threads=1) as loader:
                digest = hashlib.sha256()
                for key, array in sorted(next(loader)[1].items()):
                    whole = np.asarray(multihost_utils.process_allgather(array, tiled=True))
                    digest.update(key.encode() + whole.tobytes())
            digests.append(digest.hexdigest()[:16])
        found.append({"store": name, "shards": shards, "digests": digests})
    if jax.process_index() == 0:
        (root / f"hosts-{jax.process_count()}.json").write_text(json.dumps(found))


def launch(root: Path, hosts: int, steps: list[int]) -> list[dict]:
    """The digests as so many hosts read the batches."""
    wrapper = root / "llmjax"
    wrapper.write_text(f"#!/bin/sh\nshift\nexec {sys.executable} -m benchmarks.hosts --host $*\n")
    wrapper.chmod(0o755)
    command = [str(ROOT / "launch" / "local.sh"), str(hosts), str(root), *map(str, steps)]
    environment = os.environ | {"LLMJAX": str(wrapper), "HOSTS": str(hosts)}
    subprocess.run(command, env=environment | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, check=True)
    found: list[dict] = json.loads((root / f"hosts-{hosts}.json").read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=10, help="how many, at random")
    parser.add_argument("--seed", type=int, default=0, help="of the steps")
    options = parser.parse_args()
    steps = sorted(random.Random(options.seed).sample(range(FARTHEST), options.steps))
    with bucket(), tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["LLMJAX_CACHE"] = str(root / "cache")
        write_text(root)
        for store, _, data in data_configs(root):
            if data.store is not None:
                built = replace(data, cache_dir=str(root / f"built-{store}"))
                executor = LocalExecutor() if store == "datatrove" else None
                build_store(built, BytesConfig(), executor=executor)
        rows = [
            {"hosts": hosts, **row} for hosts in options.hosts for row in launch(root, hosts, steps)
        ]
    expected: dict[int, list[str]] = {}
    differing = 0
    for row in rows:
        same = row["digests"] == expected.setdefault(row["shards"], row["digests"])
        differing += not same
        what = f"{row['hosts']} hosts, {row['store']}, {row['shards']} shards"
        print(f"{what:32} batches at {len(steps)} steps {'equal' if same else 'DIFFER'}")
    print(json.dumps({"steps": steps, "differing": differing, "rows": rows}))
    return 1 if differing else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--host"]:
        host(Path(sys.argv[2]), [int(word) for word in sys.argv[3:]])
        sys.exit(0)
    sys.exit(main())
