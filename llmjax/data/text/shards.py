"""Builds the shards of a source: each tokenizes some of its documents into a folder of its own.

A source of P files in N shards consists of P * K units, K = ceil(N / P): unit (p, i) is every K-th
document of file p, starting with document i. (Other sources count as one file.) Shard s holds the
units from s * P * K // N to (s + 1) * P * K // N. So with at least as many files as shards, each
file is read once; with fewer, K times, but tokenized once.
"""

import itertools
import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmjax.data.config import DataConfig
from llmjax.data.progress import Progress
from llmjax.data.text.cache import (
    TEXT,
    SeenHashes,
    append_documents,
    batches,
    key_inputs,
    save_tokenizer,
    validation_threshold,
)
from llmjax.data.text.encoding import (
    BATCH_BYTES,
    WorkerContext,
    begin_worker,
    cpus,
    encode_documents,
)
from llmjax.data.text.filters import FilterChain, dropped_figures
from llmjax.data.text.publish import publish_shard
from llmjax.data.text.source import Identity, Source, json_digest
from llmjax.data.text.split import HashSample, document_hash
from llmjax.data.text.store import StoreWriter, close_cache, open_store, token_dtype
from llmjax.data.text.store_layout import SourceFolder, store_root
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.storage.cache_folders import build_once, open_or_build
from llmjax.storage.writing import cache_root

STORE = "documents"
CANDIDATES = "candidates.npy"
"""int64 [3, candidates]: of each document of lowest hash in the shard, its index in the shard, its
position in the source and its UTF-8 bytes; their text is in TEXT."""
NEAR_DUPLICATES = ("minhash", 5, 14, 8)
"""How near duplicates are found, as part of the key: by MinHash of 5 words in 14 parts of 8 hashes
each. Two documents are similar if one part is equal: likely if 3 in 4 of their 5 words are."""
LIMITED_BATCH_BYTES = 1 << 12
"""Batches of text of a shard of which only the beginning is prepared: it ends with a batch."""
_FILE = 1 << 40  # the position of a document: its file times this, plus its index in the file
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Sharding:
    """The shards of one source, and where they are stored."""

    source: Source
    identity: Identity
    config: DataConfig
    fingerprint: str
    """Of the tokenizer."""
    vocab_size: int

    @classmethod
    def of(
        cls, source: Source, identity: Identity, config: DataConfig, tokenizer: Tokenizer
    ) -> "Sharding":
        """The shards of a source as this tokenizer encodes it."""
        return cls(source, identity, config, tokenizer.fingerprint, tokenizer.vocab_size)

    @property
    def key(self) -> str:
        """A hash of everything that the shards depend on."""
        inputs = key_inputs(self.identity, self.fingerprint, self.vocab_size, self.config)
        inputs += ["shards", self.count]
        inputs += [] if self.max_tokens is None else ["max_tokens", self.max_tokens]
        inputs += NEAR_DUPLICATES if self.without_near_duplicates else []
        return json_digest(inputs)

    @property
    def corpus_key(self) -> str:
        """As `key`, with which documents of the shards count."""
        return json_digest([self.key, self.config.deduplicate])

    @property
    def stored(self) -> SourceFolder | None:
        """Where in `data.store` the shards are published; None without one."""
        if self.config.store is None:
            return None
        return SourceFolder(store_root(self.config), self.corpus_key, self.count)

    @property
    def count(self) -> int:
        """Number of shards."""
        return self.config.shards

    @property
    def root(self) -> Path:
        """The folder of all shards."""
        return cache_root(self.config.cache_dir) / "tokens" / self.key

    @property
    def max_tokens(self) -> int | None:
        """The training tokens of a shard after which the rest of its text is not prepared."""
        return self.config.max_shard_tokens(self.source)

    @property
    def without_near_duplicates(self) -> bool:
        """Whether one of several similar documents is kept."""
        return self.config.deduplicate == "minhash"

    @property
    def near_duplicates(self) -> Path:
        """The folder with the near duplicates of each shard, found before it is tokenized."""
        return self.root / "near-duplicates"

    def folder(self, shard: int) -> Path:
        """The folder of a shard."""
        return self.root / f"{shard:05}-of-{self.count:05}"

    @property
    def dtype(self) -> np.dtype:
        """Of the tokens."""
        return token_dtype(self.vocab_size)


class ShardDocument(NamedTuple):
    """A document of a shard: its position in the source, and its UTF-8 text."""

    position: int
    text: bytes


def shard_documents(
    sharding: Sharding, shard: int, chain: FilterChain | None = None
) -> Iterator[ShardDocument]:
    """The documents of a shard that the source's filters keep, copies included; see the module's
    docstring. `chain`, made of the filters, counts the others."""
    chain = chain or FilterChain(sharding.source.filters)
    files = sharding.source.parts(sharding.config.cache_dir)
    step = -(-sharding.count // len(files))
    units = len(files) * step
    first, end = (number * units // sharding.count for number in (shard, shard + 1))
    for unit in range(first, end):
        file, start = divmod(unit, step)
        documents = files[file].raw_documents(sharding.config.cache_dir)
        for index, document in itertools.islice(enumerate(documents), start, None, step):
            if chain.keep(document):
                yield ShardDocument(file * _FILE + index, document.text.encode("utf-8"))


class _Selection:
    """Removes a shard's duplicates, and keeps the text of its documents of lowest hash."""

    def __init__(self, config: DataConfig):
        self._threshold = validation_threshold(config)
        self.sample = HashSample(self._threshold, config.validation_max_bytes)
        self.count = self.duplicates = 0
        self._seen = SeenHashes()
        self._places: dict[int, tuple[int, int]] = {}  # hash -> index and position

    def unique(
        self, documents: Iterator[ShardDocument], near_duplicates: np.ndarray
    ) -> Iterator[bytes]:
        """The texts without duplicates, nor those at the indices `near_duplicates`."""
        left_out = set(near_duplicates.tolist())
        for index, (position, text) in enumerate(documents):
            if index in left_out:
                self.duplicates += 1
                continue
            hash_ = document_hash(text)
            if self._seen.add(hash_) or hash_ in self._places:
                self.duplicates += 1
                continue
            if hash_ < self.sample.threshold:
                self._places[hash_] = (self.count, position)
                for evicted in self.sample.add(hash_, text):
                    self._places.pop(document_hash(evicted))
            self.count += 1
            yield text

    def are_for_training(self, texts: list[bytes]) -> np.ndarray:
        """Which documents cannot be in the validation set: bool [documents]."""
        return np.array([document_hash(text) >= self._threshold for text in texts])

    def write(self, folder: Path) -> None:
        """Writes CANDIDATES and TEXT."""
        texts = self.sample.documents()
        rows = [(*self._places[document_hash(text)], len(text)) for text in texts]
        np.save(folder / CANDIDATES, np.array(rows, "<i8").reshape(-1, 3).T)
        (folder / TEXT).write_bytes(b"".join(texts))


def fill_shard(
    sharding: Sharding,
    shard: int,
    tokenizer: Tokenizer,
    report: Callable[[int], None],
    folder: Path,
) -> None:
    """Tokenizes a shard into a new folder.

    Args:
      sharding: the source and its shards.
      shard: which one.
      tokenizer: encodes its documents.
      report: called with the bytes of each batch of text that was tokenized.
      folder: is filled.

    Raises:
      UserError: the source is damaged, or changes while it is read.
    """
    selection = _Selection(sharding.config)
    store = StoreWriter(folder / STORE, sharding.vocab_size)
    near = np.zeros(0, "<u4")
    if sharding.without_near_duplicates:
        near = np.load(sharding.near_duplicates / f"{shard:05}.npy")
    limit, trained_on = sharding.max_tokens, 0
    size = BATCH_BYTES if limit is None else LIMITED_BATCH_BYTES
    chain = FilterChain(sharding.source.filters)
    documents = shard_documents(sharding, shard, chain)
    for texts in batches(selection.unique(documents, near), size):
        encoded = encode_documents(tokenizer, texts)
        append_documents(store, texts, encoded)
        report(sum(map(len, texts)))
        if limit is not None:
            trained_on += int(encoded.counts[selection.are_for_training(texts)].sum())
            if trained_on >= limit:
                break
    store.close()
    selection.write(folder)
    figures = {"threshold": selection.sample.threshold, "duplicates": selection.duplicates}
    figures |= dropped_figures(chain.dropped)
    close_cache(folder, {"dtype": sharding.dtype.str, **figures})
    sharding.identity.check_unchanged()


def build_shards(
    sharding: Sharding, shards: Sequence[int], tokenizer: Tokenizer, progress: Progress
) -> int:
    """Builds those of `shards` that are missing, with `data.workers` processes; returns how many.

    Raises:
      UserError: as `fill_shard`.
      RuntimeError: a process was killed.
    """
    absent = missing_shards(sharding)
    missing = [shard for shard in shards if shard in absent]
    # Other machines may build the same shards: each begins with others, and leaves out those that
    # are complete when it comes to them.
    random.Random(f"{socket.gethostname()} {os.getpid()}").shuffle(missing)
    workers = min(sharding.config.workers or cpus(), len(missing))
    size = sharding.identity.num_bytes
    total = None if size is None else size * len(missing) // sharding.count
    stage = f"Tokenizing {len(missing)} shards of the {sharding.source.kind} source"
    if workers > 1:
        _build_in_pool(
            sharding, missing, tokenizer, workers, lambda done: progress(stage, done, total)
        )
        return len(missing)
    done = 0

    def report(size: int) -> None:
        nonlocal done
        done += size
        progress(stage, done, total)

    for shard in missing:
        build_shard(sharding, shard, tokenizer, report)
    return len(missing)


def missing_shards(sharding: Sharding) -> set[int]:
    """The shards that are not in the token store; without one, in the cache."""
    if sharding.stored is not None:
        return set(sharding.stored.missing())
    return {shard for shard in range(sharding.count) if not sharding.folder(shard).is_dir()}


def build_shard(
    sharding: Sharding, shard: int, tokenizer: Tokenizer, report: Callable[[int], None]
) -> None:
    """Builds a shard in the cache if it is not there, and publishes it where it is asked for and is
    missing."""
    if sharding.stored is not None and sharding.stored.marker(shard).is_file():
        return
    folder = sharding.folder(shard)
    build = partial(fill_shard, sharding, shard, tokenizer, report)
    if sharding.stored is None:
        build_once(folder, build)
        return
    store = open_or_build(folder, build, lambda path: open_store(path / STORE, sharding.dtype))
    publish_shard(sharding.stored, shard, store, sharding.root, folder)


def _build_in_pool(
    sharding: Sharding,
    shards: Sequence[int],
    tokenizer: Tokenizer,
    workers: int,
    progress: Callable[[int], None],
) -> None:
    saved = save_tokenizer(tokenizer, cache_root(sharding.config.cache_dir))
    context = WorkerContext()
    done = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, context, _start_builder, (str(saved), sharding, done))
    try:
        pending: set[Future[None]] = {pool.submit(_build, shard) for shard in shards}
        while pending:
            finished, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
            for future in finished:
                future.result()
            progress(done.value)
    except BrokenProcessPool as error:
        message = "a tokenizing process was killed; is there enough memory?"
        raise RuntimeError(message) from error
    finally:
        pool.shutdown(cancel_futures=True)


class _Builder(NamedTuple):
    """What a process of the pool builds shards with."""

    sharding: Sharding
    tokenizer: Tokenizer
    done: Any  # a shared count of bytes, with a lock


# In a process of the pool.
_builder: _Builder


def _start_builder(tokenizer: str, sharding: Sharding, done: Any) -> None:
    global _builder
    _builder = _Builder(sharding, begin_worker(tokenizer), done)


def _build(shard: int) -> None:
    def report(size: int) -> None:
        with _builder.done.get_lock():
            _builder.done.value += size

    sharding, tokenizer, _ = _builder
    build_shard(sharding, shard, tokenizer, report)
