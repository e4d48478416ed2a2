"""Opens the shards of a source as one: chooses its validation documents, and leaves out of the
training stream these and, where asked, all copies."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmjax.data.text.cache import (
    TEXT,
    VALIDATION,
    TokenizedSource,
    append_documents,
    without_text,
)
from llmjax.data.text.encoding import Encoded
from llmjax.data.text.filters import Dropped, dropped_figures, read_dropped, total_dropped
from llmjax.data.text.sharded import RUNS, Runs, ShardedStore
from llmjax.data.text.shards import CANDIDATES, STORE, Sharding, fill_shard
from llmjax.data.text.split import HashSample, document_hash
from llmjax.data.text.store import (
    StoreWriter,
    TokenStore,
    close_cache,
    open_cache,
    open_store,
)
from llmjax.data.text.store_layout import SourceFolder, as_local
from llmjax.data.text.stored import StoredTokens, damaged
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.storage.cache_folders import Damaged, open_or_build

HASHES_AT_ONCE = 1 << 24
"""Hashes of documents compared in memory at a time (about 1 GB) where all copies are removed."""


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard that was built."""

    folder: Path
    documents: TokenStore
    threshold: int
    """Its candidates for the validation set are its documents with a hash below this."""
    duplicates: int
    """Copies removed while it was built."""
    dropped: tuple[Dropped, ...]
    """What the source's filters dropped."""

    @classmethod
    def of(cls, folder: Path, documents: TokenStore, description: Mapping[str, Any]) -> "Shard":
        """A shard by the description in its folder."""
        threshold, duplicates = description["threshold"], description["duplicates"]
        return cls(folder, documents, threshold, duplicates, read_dropped(description))


def open_shards(sharding: Sharding, tokenizer: Tokenizer) -> TokenizedSource:
    """Opens the shards of a source as one; builds damaged ones again.

    Raises:
      UserError: the source is damaged or empty, or changes while it is read.
    """
    files = [sharding.folder(shard) / STORE / "tokens.bin" for shard in range(sharding.count)]
    in_all = sum(file.stat().st_size for file in files if file.exists())
    shards = [_open(sharding, shard, tokenizer, in_all) for shard in range(sharding.count)]
    folder = sharding.root / f"index-{sharding.config.deduplicate}"
    key = sharding.corpus_key

    def build(target: Path) -> None:
        _write_index(sharding, shards, target)

    def read(path: Path) -> TokenizedSource:
        description = open_cache(path)
        validation = open_store(path / VALIDATION, sharding.dtype)
        counts = (description[name] for name in ("num_tokens", "num_bytes", "num_documents"))
        train = ShardedStore([shard.documents for shard in shards], Runs.map(path), *counts)
        threshold, duplicates = description["threshold"], description["duplicates"]
        dropped = read_dropped(description)
        return TokenizedSource(key, train, validation, path / TEXT, threshold, duplicates, dropped)

    return open_or_build(folder, build, read)


def _open(sharding: Sharding, shard: int, tokenizer: Tokenizer, in_all: int) -> Shard:
    """Opens a shard, and builds it again if it is damaged. One that another machine has built is
    opened in the token store."""
    if sharding.stored is not None and not sharding.folder(shard).is_dir():
        return _open_stored(sharding, sharding.stored, shard)

    def read(path: Path) -> Shard:
        description = open_cache(path)
        documents = open_store(path / STORE, sharding.dtype, in_all)
        return Shard.of(path, documents, description)

    build = partial(fill_shard, sharding, shard, tokenizer, lambda size: None)
    return open_or_build(sharding.folder(shard), build, read)


def _open_stored(sharding: Sharding, stored: SourceFolder, shard: int) -> Shard:
    path = as_local(stored.documents(shard))
    try:
        description = open_cache(path)
        tokens = StoredTokens(stored, shard, sharding.dtype, sharding.config)
        documents = open_store(path / STORE, sharding.dtype, tokens=tokens)
    except Damaged as error:
        raise damaged(stored.documents(shard), path, error) from error
    return Shard.of(path, documents, description)


def _write_index(sharding: Sharding, shards: Sequence[Shard], folder: Path) -> None:
    """Fills the folder of an index: the validation documents, and the runs of training ones."""
    threshold, chosen = _validation_documents(shards, sharding.config.validation_max_bytes)
    validation = StoreWriter(folder / VALIDATION, sharding.vocab_size)
    with (folder / TEXT).open("wb") as file:
        for _, shard, document, text in chosen:
            store = shards[shard].documents
            tokens = store.take(np.arange(*store.offsets[document : document + 2]))
            encoded = Encoded(tokens.astype(np.uint32), np.array([len(tokens)]))
            append_documents(validation, [text], encoded)
            file.write(text)
    validation.close()
    stores = [shard.documents for shard in shards]
    copies = None
    if sharding.config.deduplicate != "window":
        copies = later_copies([store.hashes for store in stores])
    counts = _write_runs(stores, threshold, copies, folder)
    dropped = total_dropped([shard.dropped for shard in shards])
    if counts["num_documents"] + len(chosen) == 0:
        raise without_text(sharding.source, dropped)
    duplicates = sum(shard.duplicates for shard in shards)
    duplicates += sum(store.num_documents for store in stores)
    duplicates -= counts["num_documents"] + len(chosen)
    figures = {"threshold": threshold, "duplicates": duplicates, **dropped_figures(dropped)}
    close_cache(folder, {**figures, **counts})


class _Chosen(NamedTuple):
    """A validation document."""

    position: int
    shard: int
    document: int
    text: bytes


def _validation_documents(shards: Sequence[Shard], max_bytes: int) -> tuple[int, list[_Chosen]]:
    """The documents of lowest hash of all shards, in the order of the source, and the threshold
    below which all hashes are theirs.

    Whatever a shard evicted from its candidates would be evicted here too: so these are the same
    documents for any number of shards.
    """
    sample = HashSample(min(shard.threshold for shard in shards), max_bytes)
    chosen: dict[int, _Chosen] = {}
    for number, shard in enumerate(shards):
        texts, start = (shard.folder / TEXT).read_bytes(), 0
        for document, position, size in np.load(shard.folder / CANDIDATES).T.tolist():
            text = texts[start : start + size]
            start += size
            hash_ = document_hash(text)
            candidate = _Chosen(position, number, document, text)
            if hash_ in chosen:
                chosen[hash_] = min(chosen[hash_], candidate)
            elif hash_ < sample.threshold:
                chosen[hash_] = candidate
                for evicted in sample.add(hash_, text):
                    del chosen[document_hash(evicted)]
    return sample.threshold, sorted(chosen.values())


def later_copies(hashes: Sequence[np.ndarray]) -> np.ndarray:
    """Finds all documents whose hash an earlier one has: bool [documents of all arrays]. Takes a
    byte a document, and the memory for HASHES_AT_ONCE."""
    total = sum(map(len, hashes))
    copies = np.zeros(total, bool)
    groups = -(-total // HASHES_AT_ONCE)
    for group in range(groups):
        offset, values, places = 0, [], []
        for array in hashes:
            selected = np.flatnonzero(array % np.uint64(groups) == group)
            values.append(array[selected])
            places.append(selected + offset)
            offset += len(array)
        is_copy = np.ones(sum(map(len, values)), bool)
        is_copy[np.unique(np.concatenate(values), return_index=True)[1]] = False
        copies[np.concatenate(places)[is_copy]] = True
    return copies


def _write_runs(
    stores: Sequence[TokenStore], threshold: int, copies: np.ndarray | None, folder: Path
) -> dict[str, int]:
    """Writes the runs of documents to train on; returns their tokens, bytes and documents.

    Args:
      stores: of all shards.
      threshold: documents with hashes below it are for validation.
      copies: documents that are left out too, of all stores.
      folder: gets the files.
    """
    counts = {"num_tokens": 0, "num_bytes": 0, "num_documents": 0}
    document = 0
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / f"{name}.bin").open("wb")) for name in RUNS]
        for number, store in enumerate(stores):
            kept = store.hashes >= threshold
            if copies is not None:
                kept &= ~copies[document : document + len(kept)]
            document += len(kept)
            edges = np.flatnonzero(np.diff(kept, prepend=False, append=False)).reshape(-1, 2)
            tokens, sizes = store.offsets[edges], store.byte_offsets[edges]
            lengths = tokens[:, 1] - tokens[:, 0]
            starts = counts["num_tokens"] + np.cumsum(lengths) - lengths
            columns = (starts, np.full(len(edges), number), tokens[:, 0])
            for file, column in zip(files, columns, strict=True):
                file.write(column.astype("<i8").tobytes())
            counts["num_tokens"] += int(lengths.sum())
            counts["num_bytes"] += int((sizes[:, 1] - sizes[:, 0]).sum())
            counts["num_documents"] += int(kept.sum())
    return counts
