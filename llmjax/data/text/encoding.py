"""Tokenizes documents in parallel processes, in order."""

import itertools
import os
import sys
import threading
import types
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.interruption import interrupts_deferred

BATCH_BYTES = 1 << 20
"""Approximate size of the batches of text that are tokenized."""


class Encoded(NamedTuple):
    """A batch of tokenized documents."""

    tokens: np.ndarray
    """uint32 [sum(counts)], EOS after each document."""
    counts: np.ndarray
    """int64 [documents]: tokens of each, including EOS."""


def encode_documents(tokenizer: Tokenizer, texts: list[bytes]) -> Encoded:
    """Tokenizes UTF-8 documents, adding EOS to each."""
    rows = tokenizer.encode_batch([text.decode("utf-8") for text in texts])
    end = [tokenizer.eos_id]
    counts = np.array([len(row) + 1 for row in rows], np.int64)
    flat = itertools.chain.from_iterable(itertools.chain(row, end) for row in rows)
    return Encoded(np.fromiter(flat, np.uint32, int(counts.sum())), counts)


class EncodingPool:
    """A pool of tokenizing processes. Use as a context manager, which ends them.

    They are spawned, not forked: forking a multithreaded process, such as one with JAX, may hang.
    None outlives this process, however it ends.
    """

    def __init__(self, tokenizer: Tokenizer, folder: Path, workers: int):
        """Args:
        tokenizer: encodes in this process if one is enough.
        folder: the saved tokenizer, for the other processes.
        workers: number of processes; 0: one per CPU.
        """
        self._tokenizer, self._folder = tokenizer, folder
        self._workers = workers or cpus()
        self._pool: ProcessPoolExecutor | None = None  # started once there are several batches

    def __enter__(self) -> "EncodingPool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def encode(self, batches: Iterable[list[bytes]]) -> Iterator[tuple[list[bytes], Encoded]]:
        """Yields each batch with its tokens, in order; few batches are in memory at a time.

        Raises:
          UserError: the tokenizer cannot encode a document.
          RuntimeError: a process was killed.
        """
        batches = iter(batches)
        first = list(itertools.islice(batches, 2))
        if self._workers == 1 or len(first) < 2:
            for texts in itertools.chain(first, batches):
                yield texts, encode_documents(self._tokenizer, texts)
            return
        pool = self._pool = self._pool or self._start()
        try:
            yield from self._encode_in(pool, itertools.chain(first, batches))
        except BrokenProcessPool as error:  # of a submission as well as of a result
            message = "a tokenizing process was killed; is there enough memory?"
            raise RuntimeError(message) from error

    def _encode_in(
        self, pool: ProcessPoolExecutor, batches: Iterable[list[bytes]]
    ) -> Iterator[tuple[list[bytes], Encoded]]:
        pending: deque[tuple[list[bytes], Future[Encoded]]] = deque()
        for texts in batches:
            pending.append((texts, pool.submit(_encode, texts)))
            if len(pending) > 2 * self._workers:
                oldest, future = pending.popleft()
                yield oldest, future.result()
        for texts, future in pending:
            yield texts, future.result()

    def _start(self) -> ProcessPoolExecutor:
        arguments = (str(self._folder),)
        return ProcessPoolExecutor(self._workers, WorkerContext(), _start_worker, arguments)


def cpus() -> int:
    """CPUs available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Process(SpawnProcess):
    """Does not import the user's script, which may lack the `__main__` guard."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            with interrupts_deferred():  # inherited: only the owner handles Ctrl-C
                super().start()
        finally:
            sys.modules["__main__"] = main


class WorkerContext(SpawnContext):
    """Starts the processes of pools."""

    Process = _Process


# In a worker process: the tokenizer that `_start_worker` has loaded.
_worker_tokenizer: Tokenizer


def _start_worker(folder: str) -> None:
    global _worker_tokenizer
    _worker_tokenizer = begin_worker(folder)


def begin_worker(folder: str) -> Tokenizer:
    """Prepares a process of a pool, which ends with the pool's owner; returns the tokenizer saved
    in `folder`."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread per process
    if hasattr(os, "setsid"):
        os.setsid()  # only the owner of the pool receives Ctrl-C
    threading.Thread(target=_end_with_owner, daemon=True).start()
    return load_tokenizer(folder)


def _end_with_owner() -> None:
    owner = parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)


def _encode(texts: list[bytes]) -> Encoded:
    return encode_documents(_worker_tokenizer, texts)
