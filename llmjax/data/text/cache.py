"""The cache of tokenized sources, keyed by a hash of everything the tokens depend on."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmjax.data.config import DataConfig
from llmjax.data.progress import Progress
from llmjax.data.text.encoding import BATCH_BYTES, Encoded, EncodingPool, encode_documents
from llmjax.data.text.filters import Dropped, FilterChain, dropped_figures, read_dropped
from llmjax.data.text.sharded import TokenStream
from llmjax.data.text.source import Identity, Source, filtered, json_digest
from llmjax.data.text.split import HASHES, HashSample, document_hash
from llmjax.data.text.store import (
    FORMAT,
    StoreWriter,
    TokenStore,
    close_cache,
    open_cache,
    open_store,
    token_dtype,
)
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.storage.cache_folders import Damaged, open_or_build
from llmjax.storage.writing import cache_root

VALIDATION = "heldout"
"""Name of the store of validation documents."""
TEXT = "heldout.txt"
"""Name of the file with their text."""


class SeenHashes:
    """A set of hashes in a fixed 64 MiB: exact for the first million or so, then approximate.

    Each hash belongs to one of 2^20 buckets of 8; a full bucket evicts its oldest.
    """

    def __init__(self, buckets: int = 1 << 20, depth: int = 8):
        self._table = np.zeros((buckets, depth), np.uint64)
        self._next = np.zeros(buckets, np.uint8)
        self.repeated = 0
        """How many of the hashes added were present."""

    def add(self, hash_: int) -> bool:
        """Adds a hash; returns whether it was present. (0 marks an empty slot: never present.)"""
        key = np.uint64(hash_)
        bucket = hash_ % len(self._table)
        row = self._table[bucket]
        if key in row:
            self.repeated += hash_ != 0
            return hash_ != 0
        row[self._next[bucket]] = key
        self._next[bucket] = (self._next[bucket] + 1) % row.size
        return False


@dataclass(frozen=True, eq=False)
class TokenizedSource:
    """A source, split into training and validation documents and tokenized."""

    key: str
    train: TokenStream
    validation: TokenStore
    validation_path: Path
    """The validation documents' UTF-8 text, concatenated."""
    threshold: int
    """The validation documents are exactly those with a hash below this."""
    duplicates: int | None = None
    """Copies of documents that were left out; None if unknown."""
    dropped: tuple[Dropped, ...] = ()
    """What the source's filters dropped."""


def validation_threshold(config: DataConfig) -> int:
    """Documents with a hash of this or more are always for training."""
    return int(config.validation_fraction * HASHES)


def key_inputs(
    identity: Identity, fingerprint: str, vocab_size: int, config: DataConfig
) -> list[object]:
    """Everything that the tokens of a source depend on; the fingerprint is the tokenizer's."""
    return [
        FORMAT,
        identity.digest,
        fingerprint,
        vocab_size,
        validation_threshold(config),
        config.validation_max_bytes,
    ]


def tokenize_source(
    source: Source,
    identity: Identity,
    tokenizer: Tokenizer,
    config: DataConfig,
    progress: Progress,
) -> TokenizedSource:
    """Opens the cache of `source`, building it first if there is none.

    A damaged cache is rebuilt, with a warning.

    Raises:
      UserError: the source is damaged or empty, or changes while it is read.
    """
    key = json_digest(key_inputs(identity, tokenizer.fingerprint, tokenizer.vocab_size, config))
    folder = cache_root(config.cache_dir) / "tokens" / key

    stage = f"Tokenizing the {source.kind} source"

    def build(target: Path) -> None:
        saved = save_tokenizer(tokenizer, cache_root(config.cache_dir))
        with EncodingPool(tokenizer, saved, config.workers) as pool:
            for done in _build(source, tokenizer, pool, config, target):
                progress(stage, done, identity.num_bytes)
        identity.check_unchanged()

    dtype = token_dtype(tokenizer.vocab_size)
    return open_or_build(folder, build, lambda path: open_tokens(path, key, dtype))


def open_tokens(folder: Path, key: str, dtype: np.dtype) -> TokenizedSource:
    """Opens a cached source; raises Damaged if its files have changed since."""
    description = open_cache(folder)
    train, validation = (open_store(folder / name, dtype) for name in ("train", VALIDATION))
    threshold, duplicates = description["threshold"], description.get("duplicates")
    dropped = read_dropped(description)
    return TokenizedSource(key, train, validation, folder / TEXT, threshold, duplicates, dropped)


def save_tokenizer(tokenizer: Tokenizer, cache: Path) -> Path:
    """Saves a tokenizer in the cache, for other processes to load; returns its folder."""
    folder = cache / "tokenizers" / tokenizer.fingerprint
    open_or_build(folder, tokenizer.save, read_tokenizer)
    return folder


def read_tokenizer(folder: Path) -> Tokenizer:
    """Loads a tokenizer of the cache; raises Damaged if it cannot be loaded."""
    try:
        return load_tokenizer(folder)
    except UserError as error:
        raise Damaged(folder, error.reason) from error


def _build(
    source: Source, tokenizer: Tokenizer, pool: EncodingPool, config: DataConfig, folder: Path
) -> Iterator[int]:
    """Fills a cache folder; yields the bytes of training text done so far."""
    vocab_size = tokenizer.vocab_size
    sample = HashSample(validation_threshold(config), config.validation_max_bytes)
    train, seen = StoreWriter(folder / "train", vocab_size), SeenHashes()
    chain = FilterChain(source.filters)
    documents = unique_documents(source, config.cache_dir, seen, chain)
    for texts, encoded in pool.encode(batches(_training(documents, sample))):
        append_documents(train, texts, encoded)
        yield train.num_bytes
    train.close()
    validation = StoreWriter(folder / VALIDATION, vocab_size)
    with (folder / TEXT).open("wb") as file:
        for text in sample.documents():
            append_documents(validation, [text], encode_documents(tokenizer, [text]))
            file.write(text)
    validation.close()
    if train.num_documents + validation.num_documents == 0:
        raise without_text(source, chain.dropped)
    dtype = token_dtype(vocab_size).str
    figures = {"threshold": sample.threshold, "duplicates": seen.repeated}
    figures |= dropped_figures(chain.dropped)
    close_cache(folder, {"dtype": dtype, "vocab_size": vocab_size, **figures})


def without_text(source: Source, dropped: Sequence[Dropped] = ()) -> UserError:
    """The error of a source that has no documents, or of which filters dropped all."""
    if total := sum(count.total for count in dropped):
        names = ", ".join(f"{count.filter} {count.total}" for count in dropped)
        reason = f"its filters dropped all {total} documents ({names})"
        return UserError(str(source), reason, "loosen the filters")
    return UserError(str(source), "holds no text", "give a source with text in it")


def append_documents(store: StoreWriter, texts: list[bytes], encoded: Encoded) -> None:
    """Adds documents to a store, with their sizes and hashes."""
    sizes = np.array([len(text) for text in texts], np.int64)
    hashes = np.array([document_hash(text) for text in texts], np.uint64)
    store.append(encoded.tokens, encoded.counts, sizes, hashes)


def unique_documents(
    source: Source,
    cache_dir: str | None,
    seen: SeenHashes | None = None,
    chain: FilterChain | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Yields (hash, UTF-8 text) of each distinct document that the source's filters keep; `seen`
    and `chain` count the others."""
    seen = seen or SeenHashes()
    for text in filtered(source, cache_dir, chain):
        data = text.encode("utf-8")
        hash_ = document_hash(data)
        if not seen.add(hash_):
            yield hash_, data


def _training(documents: Iterable[tuple[int, bytes]], sample: HashSample) -> Iterator[bytes]:
    """Yields the training documents; `sample` takes those for validation."""
    for hash_, text in documents:
        yield from sample.add(hash_, text)


def batches(texts: Iterable[bytes], batch_bytes: int = BATCH_BYTES) -> Iterator[list[bytes]]:
    """Groups texts into batches of at least so many bytes, but for the last one."""
    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
