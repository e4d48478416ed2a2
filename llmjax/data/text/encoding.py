"""Documents to tokens, in several processes and in order."""

import itertools
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer

BATCH_BYTES = 1 << 20


class Encoded(NamedTuple):
    """A batch of documents."""

    tokens: np.ndarray
    """uint32 [sum(counts)], EOS after each document."""
    counts: np.ndarray
    """int64 [documents]."""


def encode_documents(tokenizer: Tokenizer, texts: list[bytes]) -> Encoded:
    """Tokenizes UTF-8 documents, each with its EOS."""
    rows = tokenizer.encode_batch([text.decode("utf-8") for text in texts])
    end = [tokenizer.eos_id]
    counts = np.array([len(row) + 1 for row in rows], np.int64)
    flat = itertools.chain.from_iterable(itertools.chain(row, end) for row in rows)
    return Encoded(np.fromiter(flat, np.uint32, int(counts.sum())), counts)


class Encoders:
    """Processes that tokenize: `python -m llmjax.data.text.encoding FOLDER`, fed through pipes.

    They are programs of their own, not forks: a fork of a process with threads (JAX has many) may
    hang, and multiprocessing's spawn would run the user's script again. They end when their input
    does, so none outlives this process, however it ends.
    """

    def __init__(self, tokenizer: Tokenizer, folder: Path, workers: int):
        """Args:
        tokenizer: encodes here where one process is enough.
        folder: where it is saved, for the other processes.
        workers: how many processes; 0: one per CPU.
        """
        self._tokenizer, self._folder = tokenizer, folder
        self._workers = workers or _cpus()
        self._local = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Encoders":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def encode(self, batches: Iterable[list[bytes]]) -> Iterator[tuple[list[bytes], Encoded]]:
        """Yields every batch with its tokens, in order; few batches are in memory at a time."""
        batches = iter(batches)
        first = list(itertools.islice(batches, 2))
        if self._workers == 1 or len(first) < 2:
            for texts in itertools.chain(first, batches):
                yield texts, encode_documents(self._tokenizer, texts)
            return
        waiting: deque[tuple[list[bytes], Future[Encoded]]] = deque()
        with ThreadPoolExecutor(self._workers) as threads:
            for texts in itertools.chain(first, batches):
                waiting.append((texts, threads.submit(self._ask, texts)))
                if len(waiting) > 2 * self._workers:
                    texts, future = waiting.popleft()
                    yield texts, future.result()
            for texts, future in waiting:
                yield texts, future.result()

    def _ask(self, texts: list[bytes]) -> Encoded:
        """Has this thread's process encode `texts`."""
        process = getattr(self._local, "process", None) or self._start()
        assert process.stdin
        assert process.stdout
        lengths = np.array([len(text) for text in texts], np.int64)
        try:
            _send(process.stdin, lengths, b"".join(texts))
            counts, tokens = _receive(process.stdout, 4)
        except (BrokenPipeError, EOFError) as error:
            raise RuntimeError(f"a tokenizing process ended: code {process.wait()}") from error
        return Encoded(np.frombuffer(tokens, np.uint32), counts)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmjax.data.text.encoding", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "TOKENIZERS_PARALLELISM": "false",  # one thread a process
            },
            start_new_session=True,  # Ctrl-C is for us to handle
        )
        self._local.process = process
        self._processes.append(process)
        return process


def _cpus() -> int:
    """Those this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _send(pipe: IO[bytes], lengths: np.ndarray, payload: bytes) -> None:
    """A message: how many items, the int64 length of each, the payload."""
    pipe.write(np.int64(len(lengths)).tobytes() + lengths.tobytes())
    pipe.write(payload)
    pipe.flush()


def _receive(pipe: IO[bytes], item_size: int) -> tuple[np.ndarray, bytes]:
    """The lengths, and the payload of item_size * sum(lengths) bytes; EOFError at the end."""
    count = int(np.frombuffer(_exactly(pipe, 8), np.int64)[0])
    lengths = np.frombuffer(_exactly(pipe, 8 * count), np.int64)
    return lengths, _exactly(pipe, item_size * int(lengths.sum()))


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main() -> None:
    """Encodes what stdin brings until it ends."""
    tokenizer = load_tokenizer(sys.argv[1])
    while True:
        try:
            lengths, data = _receive(sys.stdin.buffer, 1)
        except EOFError:
            return
        ends = np.cumsum(lengths).tolist()
        texts = [data[end - size : end] for end, size in zip(ends, lengths.tolist(), strict=True)]
        encoded = encode_documents(tokenizer, texts)
        try:
            _send(sys.stdout.buffer, encoded.counts, encoded.tokens.tobytes())
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()
