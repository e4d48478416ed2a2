"""Steps of datatrove's pipelines: read the documents of a shard, tokenize shards into the store."""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from llmjax.data.datatrove.stage import ERRORS
from llmjax.data.text.shards import Sharding, build_shard, shard_documents
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.errors import UserError
from llmjax.storage.cache_folders import write_file

_load_tokenizer = functools.cache(load_tokenizer)


class ShardReader(PipelineStep):
    """Yields the documents of the shard of the task's number."""

    type, name = "READER", "llmjax shard"

    def __init__(self, sharding: Sharding, logs: Path):
        super().__init__()
        self.sharding, self.logs = sharding, logs

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with mistakes_reported(self.logs, rank):
            for document in shard_documents(self.sharding, rank):
                text = document.text.decode("utf-8")
                yield Document(text=text, id=str(document.position))


class ShardBuilder(PipelineStep):
    """Tokenizes one of some shards into the store; the task's number is its index among them."""

    type, name = "WRITER", "llmjax store"

    def __init__(self, sharding: Sharding, shards: Sequence[int], tokenizer: Path, logs: Path):
        super().__init__()
        self.sharding, self.shards = sharding, tuple(shards)
        self.tokenizer, self.logs = tokenizer, logs

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread per task
        shard = self.shards[rank]

        def report(size: int) -> None:
            self.stat_update("bytes", value=size, unit="batch")

        with mistakes_reported(self.logs, rank):
            tokenizer = _load_tokenizer(self.tokenizer)
            build_shard(self.sharding, shard, tokenizer, report)


@contextlib.contextmanager
def mistakes_reported(logs: Path, rank: int) -> Iterator[None]:
    """Writes a UserError to a file too, since not every executor passes errors on."""
    try:
        yield
    except UserError as error:
        write_file(logs / ERRORS / f"{rank:05}.txt", str(error).encode())
        raise
