"""Writes the parts of a token store; each appears complete, and its markers last."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from llmjax.data.text.blocks import write_blocks
from llmjax.data.text.cache import TEXT, VALIDATION, TokenizedSource
from llmjax.data.text.filters import dropped_figures
from llmjax.data.text.sharded import RUNS, ShardedStore
from llmjax.data.text.store import TokenStore, close_cache
from llmjax.data.text.store_layout import SourceFolder, StoredSource
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.storage.checksums import with_checksum
from llmjax.storage.stores.path import Location
from llmjax.storage.stores.publishing import put_bytes, put_file

TOKENS = "tokens.bin"


def publish_shard(
    target: SourceFolder, shard: int, store: TokenStore, scratch: Path, documents: Path | None
) -> None:
    """Writes a shard.

    Args:
      target: where.
      shard: its number.
      store: its tokens.
      scratch: a folder on a disk with room for the tokens.
      documents: the folder of the cache that holds the shard; None if nobody needs the rest of it.

    Raises:
      UserError: the shard was damaged, or it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".publish.", dir=scratch) as folder:
        file = Path(folder, TOKENS)
        write_blocks(store, block_name(target, shard), file)
        put_file(target.tokens(shard), file)
    if documents is not None:
        _put_folder(target.documents(shard), documents)
    sizes = {"tokens": store.num_tokens, "documents": store.num_documents}
    put_bytes(target.marker(shard), json.dumps(with_checksum(sizes)).encode())


def block_name(target: SourceFolder, shard: int) -> str:
    """The name of a shard in its checksums, and of its blocks in the cache."""
    return f"{target.key}/{target.name(shard)}"


def publish_source(root: Location, source: TokenizedSource) -> StoredSource:
    """Writes the index of a source, of which all shards but those of an unsharded one are complete.

    Args:
      root: the store's folder.
      source: tokenized, in the cache.

    Raises:
      UserError: the cache is damaged, or the store cannot be written.
    """
    train = source.train
    stores = train.stores if isinstance(train, ShardedStore) else [train]
    target = SourceFolder(root, source.key, len(stores))
    if isinstance(train, TokenStore) and target.missing():
        publish_shard(target, 0, train, source.validation_path.parent.parent, None)
    _publish_index(target, source)
    dtype = source.validation.tokens.dtype.str
    return StoredSource(source.key, dtype, tuple(store.num_tokens for store in stores))


def _publish_index(target: SourceFolder, source: TokenizedSource) -> None:
    folder = source.validation_path.parent
    if isinstance(source.train, ShardedStore):
        _put_folder(target.index, folder)
        return
    train = source.train
    with tempfile.TemporaryDirectory(prefix=".publish.", dir=folder.parent) as name:
        index = Path(name)
        shutil.copy(source.validation_path, index / TEXT)
        shutil.copytree(folder / VALIDATION, index / VALIDATION)
        for run in RUNS:
            (index / f"{run}.bin").write_bytes(np.zeros(min(train.num_tokens, 1), "<i8").tobytes())
        sizes = ("num_tokens", "num_bytes", "num_documents")
        counts = {size: getattr(train, size) for size in sizes}
        figures = {"threshold": source.threshold, "duplicates": source.duplicates}
        figures |= dropped_figures(source.dropped)
        close_cache(index, {**figures, **counts})
        _put_folder(target.index, index)


def publish_tokenizer(target: Location, tokenizer: Tokenizer) -> None:
    """Writes the files of a tokenizer."""
    with tempfile.TemporaryDirectory(prefix="llmjax-upload.") as name:
        folder = Path(name, "tokenizer")
        tokenizer.save(folder)
        _put_folder(target, folder)


def _put_folder(target: Location, folder: Path) -> None:
    """Copies the files of a folder, but for the tokens of a shard."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not (path.name == TOKENS and path.parent.name == "documents"):
            put_file(target / name, path)
