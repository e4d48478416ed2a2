"""Prepares a corpus: trains or loads the tokenizer, tokenizes the sources, checks the result."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from llmjax.data.config import DataConfig, check_data
from llmjax.data.datatrove.building import build_shards_on, find_near_duplicates
from llmjax.data.datatrove.executors import Executor, LocalExecutor
from llmjax.data.progress import Progress, no_progress
from llmjax.data.text.cache import (
    TokenizedSource,
    read_tokenizer,
    tokenize_source,
    unique_documents,
    validation_threshold,
    without_text,
)
from llmjax.data.text.encoding import BATCH_BYTES
from llmjax.data.text.merging import open_shards
from llmjax.data.text.sharded import TokenStream
from llmjax.data.text.shards import Sharding, build_shards
from llmjax.data.text.source import Identity, Source, identify_filtered, json_digest
from llmjax.data.text.split import HASHES, HashSample
from llmjax.data.text.stored import open_stored
from llmjax.data.tokenizers.config import TokenizerConfig, load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.storage.cache_folders import open_or_build
from llmjax.storage.writing import cache_root

log = logging.getLogger(__name__)

SCAN = 32
"""A tokenizer's sample is drawn from text of this many times its size, not from whole sources."""


@dataclass(frozen=True, eq=False)
class Document:
    """A tokenized document."""

    tokens: np.ndarray
    """int32 [tokens], including EOS."""
    bytes: int
    """UTF-8 bytes of the original text."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokenized training and validation documents on disk."""

    sources: tuple[TokenizedSource, ...]
    bos_id: int
    eos_id: int
    pad_id: int

    @property
    def train(self) -> tuple[TokenStream, ...]:
        """The training documents of every source."""
        return tuple(source.train for source in self.sources)

    @property
    def num_tokens(self) -> int:
        """Training tokens, including EOS."""
        return sum(store.num_tokens for store in self.train)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of training text."""
        return sum(store.num_bytes for store in self.train)

    @property
    def num_documents(self) -> int:
        """Number of training documents."""
        return sum(store.num_documents for store in self.train)

    @property
    def fingerprint(self) -> str:
        """A hash: equal on all hosts that hold the same tokens in the same order."""
        return json_digest([source.key for source in self.sources])


def prepare(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    tokenizer_folder: Path | str | None = None,
    progress: Progress = no_progress,
    special_tokens: tuple[str, ...] = (),
    executor: Executor | None = None,
) -> tuple[Tokenizer, Corpus]:
    """Prepares the tokenizer and the tokenized corpus, reusing the cache.

    With `data.store` both are those of the store, and no text is read.

    Args:
      config: what to read.
      tokenizer_config: how to tokenize it. If the tokenizer has to be trained, it is trained on a
        sample of the training documents, and cached like the tokens.
      tokenizer_folder: the run's tokenizer/ folder. A tokenizer in it is used as it is; otherwise
        the tokenizer is written there.
      progress: see `Progress`.
      special_tokens: additional special tokens of a tokenizer trained here.
      executor: where datatrove builds the shards of `config`; None: processes of this one do.

    Raises:
      UserError: a value of `config` is invalid, a source is missing, damaged or empty, the
        validation set is empty, the corpus is smaller than a batch, the text does not support the
        vocabulary size, or the store is incomplete or that of another config.
    """
    check_data(config, tokenizer_config)
    folder = None if tokenizer_folder is None else Path(tokenizer_folder)
    known = known_tokenizer(folder)
    if config.store is not None:
        tokenizer, sources = open_stored(config, tokenizer_config, known, special_tokens)
        corpus = Corpus(sources, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
        _check(corpus, config)
    else:
        pinned, identities = pin_sources(config)
        tokenizer, corpus = tokenize(
            pinned, identities, tokenizer_config, known, progress, special_tokens, executor
        )
    if known is None and folder is not None:
        tokenizer.save(folder)
    return tokenizer, corpus


def tokenize(
    config: DataConfig,
    identities: Sequence[Identity],
    tokenizer_config: TokenizerConfig,
    known: Tokenizer | None,
    progress: Progress,
    special_tokens: tuple[str, ...],
    executor: Executor | None,
) -> tuple[Tokenizer, Corpus]:
    """As `prepare`, in the cache, of what `pin_sources` returns, with the run's tokenizer if it has
    one (`known`)."""

    def build(config: DataConfig) -> tuple[Tokenizer, Corpus]:
        tokenizer = known or tokenizer_config.open()
        tokenizer = tokenizer or train_or_load(
            tokenizer_config, config, identities, progress, special_tokens
        )
        sources = tuple(
            _open_source(source, identity, tokenizer, config, progress, executor)
            for source, identity in zip(config.sources, identities, strict=True)
        )
        return tokenizer, Corpus(sources, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)

    tokenizer, corpus = build(config)
    is_empty = config.validation_fraction > 0 and not _num_validation(corpus)
    if is_empty and corpus.num_documents > 1 and config.max_tokens is None:
        config = _hold_out_one(config, corpus.num_documents)
        tokenizer, corpus = build(config)  # again: the tokenizer must not see the document
    _check(corpus, config)
    return tokenizer, corpus


def share_shards(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    tokenizer_folder: Path | None = None,
    progress: Progress = no_progress,
    special_tokens: tuple[str, ...] = (),
    shards: slice = slice(None),
) -> int:
    """Prepares the tokenizer and some of the shards of each source, so that `prepare` finds them.

    Args:
      config: as for `prepare`; it has shards.
      tokenizer_config: as for `prepare`.
      tokenizer_folder: the run's tokenizer/ folder; nothing is written there.
      progress: see `Progress`.
      special_tokens: as for `prepare`.
      shards: which of the shards to build.

    Returns:
      How many of them were missing.

    Raises:
      UserError: as `prepare`.
    """
    check_data(config, tokenizer_config)
    config, identities = pin_sources(config)
    tokenizer = known_tokenizer(tokenizer_folder) or tokenizer_config.open()
    tokenizer = tokenizer or train_or_load(
        tokenizer_config, config, identities, progress, special_tokens
    )
    missing = 0
    for source, identity in zip(config.sources, identities, strict=True):
        sharding = Sharding.of(source, identity, config, tokenizer)
        missing += _build(sharding, range(config.shards)[shards], tokenizer, progress)
    return missing


def known_tokenizer(folder: Path | None) -> Tokenizer | None:
    """The tokenizer of a run's tokenizer/ folder, if there is one."""
    return load_tokenizer(folder) if folder is not None and folder.is_dir() else None


def _open_source(
    source: Source,
    identity: Identity,
    tokenizer: Tokenizer,
    config: DataConfig,
    progress: Progress,
    executor: Executor | None,
) -> TokenizedSource:
    if not config.is_sharded:
        return tokenize_source(source, identity, tokenizer, config, progress)
    sharding = Sharding.of(source, identity, config, tokenizer)
    _build(sharding, range(config.shards), tokenizer, progress, executor)
    return open_shards(sharding, tokenizer)


def _build(
    sharding: Sharding,
    shards: Sequence[int],
    tokenizer: Tokenizer,
    progress: Progress,
    executor: Executor | None = None,
) -> int:
    """Builds those of `shards` that are missing; returns how many."""
    if sharding.without_near_duplicates:
        find_near_duplicates(sharding, executor or LocalExecutor(), progress)
    if executor is None:
        return build_shards(sharding, shards, tokenizer, progress)
    return build_shards_on(executor, sharding, shards, tokenizer, progress)


def _hold_out_one(config: DataConfig, documents: int) -> DataConfig:
    """The config with the smallest validation_fraction in which a document falls."""
    lowest = min(
        hash_
        for source in config.sources
        for hash_, _ in unique_documents(source, config.cache_dir)
    )
    fraction = (lowest + 1) / HASHES
    while int(fraction * HASHES) <= lowest:
        fraction = math.nextafter(fraction, 1.0)
    log.warning(
        "none of %d documents falls in data.validation_fraction %g: one of them is held out",
        documents,
        config.validation_fraction,
    )
    return replace(config, validation_fraction=fraction)


def train_tokenizer(
    config: TokenizerConfig,
    data: DataConfig,
    folder: Path | str,
    progress: Progress = no_progress,
) -> Tokenizer:
    """Trains a tokenizer on the training documents of `data` and writes it to `folder`.

    Raises:
      UserError: a source is missing, damaged or empty, or the text does not support the vocabulary
        size.
    """
    check_data(data, config)
    data, identities = pin_sources(data)
    tokenizer = train_or_load(config, data, identities, progress)
    tokenizer.save(folder)
    return tokenizer


def pin_sources(config: DataConfig) -> tuple[DataConfig, list[Identity]]:
    """The config with its sources pinned to their current versions, and their identities."""
    config = replace(config, sources=tuple(source.pinned() for source in config.sources))
    return config, [identify_filtered(source, config.cache_dir) for source in config.sources]


def train_or_load(
    config: TokenizerConfig,
    data: DataConfig,
    identities: Sequence[Identity],
    progress: Progress,
    special_tokens: tuple[str, ...] = (),
) -> Tokenizer:
    """Trains a tokenizer on the training documents, or loads it from the cache."""
    weights = [source.weight for source in data.sources]
    values = asdict(config)  # type: ignore[call-overload]  # configs are dataclasses
    inputs = [2, values, [i.digest for i in identities], weights, validation_threshold(data)]
    inputs += [special_tokens] if special_tokens else []
    folder = cache_root(data.cache_dir) / "tokenizers" / json_digest(inputs)

    def build(target: Path) -> None:
        texts = list(_sample(data, config.sample_bytes, identities, progress))
        if not texts:
            raise _nothing_left("; ".join(map(str, data.sources)), "all documents")
        progress("Training the tokenizer", 0, None)
        config.train(texts, special_tokens).save(target)

    return open_or_build(folder, build, read_tokenizer)


def _sample(
    data: DataConfig, max_bytes: int, identities: Sequence[Identity], progress: Progress
) -> Iterator[str]:
    """Training documents: a uniform sample of each source's beginning, sized by weight."""
    total = sum(source.weight for source in data.sources)
    for source, identity in zip(data.sources, identities, strict=True):
        sample = HashSample(HASHES, int(max_bytes * source.weight / total))
        done = reported = 0
        for hash_, text in unique_documents(source, data.cache_dir):
            done += len(text)
            if done > SCAN * max_bytes:
                break
            if hash_ >= validation_threshold(data):
                sample.add(hash_, text)
            if done >= reported:
                progress(f"Sampling the {source.kind} source", done, identity.num_bytes)
                reported = done + BATCH_BYTES
        identity.check_unchanged()
        if not done:
            raise without_text(source)
        yield from (text.decode("utf-8") for text in sample.documents())


def _check(corpus: Corpus, config: DataConfig) -> None:
    names = "; ".join(map(str, config.sources))
    validation = _num_validation(corpus)
    total = corpus.num_documents + validation
    if config.validation_fraction > 0 and validation == 0:
        reason = f"the validation set is empty: none of {total} documents falls in it"
        fix = (
            "raise data.validation_fraction, or give more or smaller documents (chunk_bytes, split)"
        )
        raise UserError(names, reason, fix)
    for source, store in zip(config.sources, corpus.train, strict=True):
        if store.num_tokens == 0:
            raise _nothing_left(str(source), f"all {total} documents")
    batch = config.batch_size * config.length
    if corpus.num_tokens < batch:
        sizes = f"{config.batch_size} rows of {config.length}"
        reason = f"its {corpus.num_tokens} training tokens are fewer than a batch of {sizes}"
        raise UserError(names, reason, "lower data.batch_size or data.length, or add text")


def _nothing_left(source: str, documents: str) -> UserError:
    reason = f"no text is left to train on: {documents} are in the validation set"
    return UserError(source, reason, "add documents, or lower data.validation_fraction")


def _num_validation(corpus: Corpus) -> int:
    return sum(len(kept) for _, kept in _validation(corpus))


def validation_documents(corpus: Corpus) -> Iterator[Document]:
    """The validation documents, without duplicates and without any source's training documents."""
    for source, kept in _validation(corpus):
        store = source.validation
        for d in kept:
            tokens = store.take(np.arange(store.offsets[d], store.offsets[d + 1]))
            yield Document(tokens, int(store.byte_offsets[d + 1] - store.byte_offsets[d]))


def validation_text(corpus: Corpus) -> bytes:
    """The original UTF-8 text of `validation_documents`, concatenated."""
    parts = []
    for source, kept in _validation(corpus):
        text, ends = source.validation_path.read_bytes(), source.validation.byte_offsets
        parts += [text[ends[d] : ends[d + 1]] for d in kept]
    return b"".join(parts)


def _validation(corpus: Corpus) -> Iterator[tuple[TokenizedSource, list[int]]]:
    """Each source, and the indices of its validation documents that count.

    A source that reached its size limit has a lower threshold, and may train on documents that
    another source validates on: only those with hashes below all thresholds count.
    """
    lowest = min(source.threshold for source in corpus.sources)
    seen: set[int] = set()
    for source in corpus.sources:
        kept = []
        for index, hash_ in enumerate(source.validation.hashes.tolist()):
            if hash_ < lowest and hash_ not in seen:
                seen.add(hash_)
                kept.append(index)
        yield source, kept
