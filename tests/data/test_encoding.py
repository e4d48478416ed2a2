"""Several processes tokenize as one does, in order."""

import os
import signal

import numpy as np
import pytest

from llmjax.data.text.encoding import Encoders, encode_documents
from llmjax.data.tokenizers.table import BytesTokenizer

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
    with Encoders(tokenizer, tmp_path / "tokenizer", workers) as encoders:
        found = list(encoders.encode(BATCHES))
    assert [texts for texts, _ in found] == BATCHES
    for texts, encoded in found:
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

    with Encoders(tokenizer, tmp_path / "tokenizer", 2) as encoders:
        found = encoders.encode(endless())
        for _ in range(3):
            next(found)
        found.close()
    assert asked < 12


def test_a_process_that_dies_is_noticed(tokenizer, tmp_path):
    with Encoders(tokenizer, tmp_path / "tokenizer", 2) as encoders:
        found = encoders.encode(BATCHES * 50)
        next(found)
        for process in encoders._processes:
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="a tokenizing process ended: code -9"):
            list(found)


def test_processes_end_with_their_owner(tokenizer, tmp_path):
    with Encoders(tokenizer, tmp_path / "tokenizer", 2) as encoders:
        list(encoders.encode(BATCHES))
        processes = list(encoders._processes)
        assert processes
        assert all(process.poll() is None for process in processes)
    assert all(process.poll() is not None for process in processes)
