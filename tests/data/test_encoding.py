"""Several processes tokenize like one, in order."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import models

from llmjax.data.text.encoding import EncodingPool, encode_documents
from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError

BATCHES = [[f"batch {i} document {j} é".encode() for j in range(i % 4 + 1)] for i in range(12)]


@pytest.fixture
def tokenizer(tmp_path):
    BytesTokenizer().save(tmp_path / "tokenizer")
    return BytesTokenizer()


def test_documents_end_with_eos(tokenizer):
    encoded = encode_documents(tokenizer, [b"ab", b"", b"c"])
    assert encoded.tokens.tolist() == [97, 98, 258, 258, 99, 258]
    assert encoded.counts.tolist() == [3, 1, 2]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_processes_gives_the_same(tokenizer, tmp_path, workers):
    with EncodingPool(tokenizer, tmp_path / "tokenizer", workers) as pool:
        results = list(pool.encode(BATCHES))
    assert [texts for texts, _ in results] == BATCHES
    for texts, encoded in results:
        expected = encode_documents(tokenizer, texts)
        np.testing.assert_array_equal(encoded.tokens, expected.tokens)
        np.testing.assert_array_equal(encoded.counts, expected.counts)


def test_batches_are_asked_for_as_they_are_needed(tokenizer, tmp_path):
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield [b"text"]

    with EncodingPool(tokenizer, tmp_path / "tokenizer", 2) as pool:
        results = pool.encode(endless())
        for _ in range(3):
            next(results)
        results.close()
    assert asked < 12


@pytest.mark.parametrize("submitted", ["before", "after"])
def test_a_process_that_dies_is_noticed(tokenizer, tmp_path, submitted):
    """Whether the pool breaks under a result that is waited for or is broken when it is asked."""
    with EncodingPool(tokenizer, tmp_path / "tokenizer", 2) as pool:
        results = pool.encode(BATCHES * 50)
        next(results)
        children = multiprocessing.active_children()
        for process in children:
            os.kill(process.pid, signal.SIGKILL)
        if submitted == "after":
            for process in children:
                process.join()
            pool._pool._executor_manager_thread.join()
        with pytest.raises(RuntimeError, match="a tokenizing process was killed"):
            list(results)


def test_a_refused_text_is_a_user_error(tmp_path):
    """Raised by a process of the pool."""
    inner = Inner(models.WordLevel({"<s>": 0, "a": 1}, unk_token="missing"))
    tokenizer = HuggingFaceTokenizer(inner.to_str().encode(), {"bos_token": "<s>"})
    tokenizer.save(tmp_path)
    with (
        EncodingPool(tokenizer, tmp_path, 2) as pool,
        pytest.raises(UserError, match="cannot encode this text"),
    ):
        list(pool.encode([[b"a"], [b"b"], [b"a"]]))


def test_processes_end_with_their_owner(tokenizer, tmp_path):
    with EncodingPool(tokenizer, tmp_path / "tokenizer", 2) as pool:
        list(pool.encode(BATCHES))
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


SCRIPT = """
import sys
from pathlib import Path
from llmjax.data.text.encoding import EncodingPool
from llmjax.data.tokenizers.table import BytesTokenizer
print("the script runs", flush=True)
def endless():
    while True:
        yield [b"text"]
with EncodingPool(BytesTokenizer(), Path(sys.argv[1]), 2) as pool:
    results = pool.encode(endless())
    next(results)
    import multiprocessing
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    for _ in results:
        pass
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_a_script_and_do_not_run_it(tokenizer, tmp_path, end):
    """A script without the `__main__` guard, killed or interrupted."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "tokenizer")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "the script runs\n"
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert workers
    assert all(map(alive, workers))
    os.killpg(process.pid, end)  # as Ctrl-C does
    output, errors = process.communicate(timeout=60)
    assert output == "", "no worker runs the script"
    assert errors.count("Traceback") == (1 if end == signal.SIGINT else 0)
    deadline = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))
