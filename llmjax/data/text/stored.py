"""Reads a complete token store, which may be in a bucket: the training tokens by blocks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmjax.data.config import DataConfig
from llmjax.data.text.blocks import BLOCK, BlockFile, BlockReader, Wanted, record_size
from llmjax.data.text.cache import TEXT, VALIDATION, TokenizedSource
from llmjax.data.text.filters import read_dropped
from llmjax.data.text.publish import block_name
from llmjax.data.text.sharded import Runs
from llmjax.data.text.store import Tokens, open_cache, open_store
from llmjax.data.text.store_layout import (
    BUILD,
    STORE,
    TOKENIZER,
    SourceFolder,
    StoredSource,
    as_local,
    check_request,
    incomplete,
    read_manifest,
    read_marker,
    request_of,
    store_root,
)
from llmjax.data.tokenizers.config import TokenizerConfig, load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.storage.cache_folders import Damaged
from llmjax.storage.stores.block_cache import BlockCache
from llmjax.storage.stores.path import Location, StorePath
from llmjax.storage.stores.publishing import file_sizes
from llmjax.storage.stores.ranges import RangeReader
from llmjax.storage.writing import cache_root

IN_MEMORY = 64 << 20
"""Bytes of blocks that a read holds in memory at a time, about."""


@dataclass(frozen=True, eq=False)
class StoredStream:
    """The training documents of a source in a store, as a TokenStream. Thread-safe; memory is
    proportional to what is read, and limited by IN_MEMORY beyond the result."""

    blocks: BlockReader
    runs: Runs
    num_tokens: int
    num_bytes: int
    num_documents: int

    @property
    def is_remote(self) -> bool:
        """See TokenStream."""
        return self.blocks.is_remote

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See TokenStream."""
        return self.read(indices).ids

    def read(self, indices: np.ndarray) -> Tokens:
        """See TokenStream."""
        owner, places = self.runs.locate(np.ravel(indices))
        return read_places(self.blocks, owner, places, indices.shape)


def read_places(
    blocks: BlockReader, files: np.ndarray, places: np.ndarray, shape: tuple[int, ...]
) -> Tokens:
    """Reads tokens of several files.

    Args:
      blocks: reads the files.
      files, places: int64 [tokens], the index of the file of each, and its place there.
      shape: of the result, of as many elements.

    Raises:
      UserError: as BlockReader.read.
    """
    numbers, columns = np.divmod(places, BLOCK)
    names, inverse = np.unique(files << 40 | numbers, return_inverse=True)
    inverse = inverse.reshape(-1)
    tokens = Tokens(np.empty(len(places), np.int32), np.empty(len(places), bool))
    step = max(1, IN_MEMORY // blocks.bytes_per_record)
    for begin in range(0, len(names), step):
        part = names[begin : begin + step].tolist()
        ids, first = blocks.read([Wanted(name >> 40, name & ((1 << 40) - 1)) for name in part])
        here = np.flatnonzero((inverse >= begin) & (inverse < begin + step))
        rows, column = inverse[here] - begin, columns[here]
        tokens.ids[here], tokens.first[here] = ids[rows, column], first[rows, column]
    return Tokens(tokens.ids.reshape(shape), tokens.first.reshape(shape))


class StoredTokens:
    """The tokens of a shard in a store, in place of an array of them."""

    def __init__(self, folder: SourceFolder, shard: int, dtype: np.dtype, config: DataConfig):
        """Args:
        folder: the shards'.
        shard: its number; it is complete.
        dtype: of the tokens.
        config: as for `block_reader`.
        """
        self._blocks = block_reader(folder, dtype, config)
        self._shard, self._count = shard, read_marker(folder, shard)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        places = np.ravel(indices)
        files = np.full(len(places), self._shard)
        return read_places(self._blocks, files, places, indices.shape).ids


def block_reader(folder: SourceFolder, dtype: np.dtype, config: DataConfig) -> BlockReader:
    """A reader of the tokens of a source's shards.

    Args:
      folder: the shards'.
      dtype: of the tokens.
      config: where blocks of a bucket are kept, and how many.
    """
    files = [
        BlockFile(folder.tokens(shard), block_name(folder, shard)) for shard in range(folder.shards)
    ]
    cache = None
    if isinstance(folder.store, StorePath):
        kept = cache_root(config.cache_dir) / "stores" / "blocks"
        cache = BlockCache(kept, folder.key, config.store_cache_bytes)
    return BlockReader(files, dtype, RangeReader(folder.store), cache)


def open_stored(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    known: Tokenizer | None,
    special_tokens: tuple[str, ...],
) -> tuple[Tokenizer, tuple[TokenizedSource, ...]]:
    """Opens the complete store at `data.store`.

    Args:
      config, tokenizer_config, special_tokens: those it was built with.
      known: the run's tokenizer; None if it takes the store's.

    Raises:
      UserError: it is incomplete or damaged, or that of another config.
    """
    root = store_root(config)
    manifest = read_manifest(root / STORE)
    if manifest is None:
        raise incomplete(root)
    request = request_of(config, tokenizer_config, special_tokens)
    check_request(root, manifest, config, request, known.fingerprint if known else None)
    tokenizer = known or load_tokenizer(as_local(root / TOKENIZER))
    return tokenizer, tuple(_open_source(root, source, config) for source in manifest.sources)


def _open_source(store: Location, source: StoredSource, config: DataConfig) -> TokenizedSource:
    """Opens a source; only its index is read."""
    folder, dtype = SourceFolder(store, source.key, len(source.tokens)), np.dtype(source.dtype)
    _check_sizes(folder, source, dtype)
    path = as_local(folder.index)
    try:
        description = open_cache(path)
        validation = open_store(path / VALIDATION, dtype)
    except Damaged as error:
        raise damaged(folder.index, path, error) from error
    counts = (description[name] for name in ("num_tokens", "num_bytes", "num_documents"))
    blocks = block_reader(folder, dtype, config)
    train = StoredStream(blocks, Runs.map(path), *counts)
    threshold, duplicates = description["threshold"], description["duplicates"]
    dropped = read_dropped(description)
    return TokenizedSource(
        source.key, train, validation, path / TEXT, threshold, duplicates, dropped
    )


def damaged(address: Location, path: Path, error: Damaged) -> UserError:
    """The error of a folder of a store, of which `path` may be a copy."""
    build = BUILD.format("ADDRESS")
    fix = f"remove {address}, and {build}"
    if isinstance(address, StorePath):
        fix = f"remove the local copy, {path}, and try again; if that does not help, {fix}"
    return UserError(address, f"is damaged: {error.reason}", fix)


def _check_sizes(folder: SourceFolder, source: StoredSource, dtype: np.dtype) -> None:
    """Checks that all shards are there; nothing is read."""
    sizes = file_sizes(folder.root / "tokens")
    fix = f"remove {folder.store / 'store.json'}, and {BUILD.format(folder.store)}"
    for shard, tokens in enumerate(source.tokens):
        path, expected = folder.tokens(shard), -(-tokens // BLOCK) * record_size(dtype)
        if path.name not in sizes:
            raise UserError(path, "is missing from the token store", fix)
        if sizes[path.name] != expected:
            found = sizes[path.name]
            raise UserError(path, f"has {found:,} bytes, and should have {expected:,}", fix)
