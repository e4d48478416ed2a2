"""Builds the shards of a source on datatrove, and finds their near duplicates by MinHash."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llmjax.data.datatrove.executors import Executor
from llmjax.data.datatrove.library import check_library
from llmjax.data.datatrove.stage import Stage
from llmjax.data.progress import Progress
from llmjax.data.text.cache import save_tokenizer
from llmjax.data.text.shards import NEAR_DUPLICATES, STORE, Sharding, missing_shards
from llmjax.data.text.store import close_cache, open_cache, stored_bytes
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.storage.cache_folders import open_or_build
from llmjax.storage.writing import cache_root


def build_shards_on(
    executor: Executor,
    sharding: Sharding,
    shards: Sequence[int],
    tokenizer: Tokenizer,
    progress: Progress,
) -> int:
    """Builds those of `shards` that are missing; returns how many. See `build_shards`.

    Raises:
      UserError: the source is damaged, or tasks failed.
    """
    absent = missing_shards(sharding)
    missing = [shard for shard in shards if shard in absent]
    if not missing:
        return 0
    check_library()
    from llmjax.data.datatrove.steps import ShardBuilder

    stage_name = f"Tokenizing {len(missing)} shards of the {sharding.source.kind} source"
    progress(stage_name, 0, None)
    saved = save_tokenizer(tokenizer, cache_root(sharding.config.cache_dir))
    folder = _work(sharding)
    folder.mkdir(parents=True, exist_ok=True)
    logs = Path(tempfile.mkdtemp(prefix="shards-", dir=folder))
    step = ShardBuilder(sharding, missing, saved, logs)
    executor.run(Stage("shards", (step,), len(missing), logs), sharding.config.workers)
    shutil.rmtree(logs)
    folders = (sharding.folder(shard) / STORE for shard in missing)
    sizes = [stored_bytes(folder) for folder in folders if folder.is_dir()]
    progress(stage_name, sum(sizes), None)
    return len(missing)


def find_near_duplicates(sharding: Sharding, executor: Executor, progress: Progress) -> None:
    """Writes `sharding.near_duplicates`, if it is missing or damaged: of each shard, the indices of
    those documents that are left out, since a similar one is kept.

    An interrupted search continues with the tasks that were not completed.

    Raises:
      UserError: the source is damaged, or tasks failed.
    """
    work = _work(sharding) / "near-duplicates"

    def build(target: Path) -> None:
        check_library()
        stage = f"Finding near duplicates in the {sharding.source.kind} source"
        progress(stage, 0, None)
        for step in _minhash_stages(sharding, work):
            executor.run(step, sharding.config.workers)
        for shard in range(sharding.count):
            file = work / "removed" / f"{shard:06d}.remove"
            removed = np.fromfile(file, "<u4") if file.exists() else np.zeros(0, "<u4")
            np.save(target / f"{shard:05}.npy", removed)
        close_cache(target, {"method": list(NEAR_DUPLICATES)})
        sharding.identity.check_unchanged()

    open_or_build(sharding.near_duplicates, build, open_cache)
    shutil.rmtree(work, ignore_errors=True)


def _minhash_stages(sharding: Sharding, work: Path) -> Iterator[Stage]:
    """datatrove's stages: signatures of the documents of each shard, pairs of equal parts of
    signatures, and clusters of pairs. Their tasks do not depend on the workers."""
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupSignature,
    )
    from datatrove.utils.hashing import HashConfig

    from llmjax.data.datatrove.steps import ShardReader
    from llmjax.data.datatrove.words import Words

    _, grams, buckets, hashes = NEAR_DUPLICATES
    config = MinhashConfig(grams, buckets, hashes, hash_config=HashConfig(64, "sha1"))
    signatures, pairs, removed = (str(work / name) for name in ("signatures", "pairs", "removed"))

    logs = work / "logs-signatures"
    reader = ShardReader(sharding, logs)
    signature = MinhashDedupSignature(signatures, config, Words())
    yield Stage("signatures", (reader, signature), sharding.count, logs)
    bucket = MinhashDedupBuckets(signatures, pairs, config=config)
    yield Stage("pairs", (bucket,), buckets, work / "logs-pairs")
    cluster = MinhashDedupCluster(pairs, removed, config)
    yield Stage("clusters", (cluster,), 1, work / "logs-clusters")


def _work(sharding: Sharding) -> Path:
    """The folder of what is needed only while a source is prepared."""
    return cache_root(sharding.config.cache_dir) / "datatrove" / sharding.key
