"""Documents on disk come back as they were written."""

import numpy as np
import pytest

from llmjax.data.store import (
    StoreWriter,
    open_store,
    read_description,
    token_dtype,
    write_description,
)
from llmjax.errors import UserError


@pytest.mark.parametrize(("vocabulary", "size"), [(100, 2), (65_536, 2), (65_537, 4), (250_000, 4)])
def test_written_and_read(tmp_path, vocabulary, size):
    dtype = token_dtype(vocabulary)
    assert dtype.itemsize == size
    writer = StoreWriter(tmp_path / "store", dtype)
    last = vocabulary - 1
    hashes = np.array([1, 2**64 - 1, 7], np.uint64)
    tokens = np.array([5, last, 9, last], np.uint32)
    writer.append(tokens, np.array([3, 1]), np.array([10, 20]), hashes[:2])
    writer.append(np.array([last], np.uint32), np.array([1]), np.array([30]), hashes[2:])
    writer.close()
    store = open_store(tmp_path / "store", dtype)
    assert store.tokens.tolist() == [5, last, 9, last, last]
    assert store.offsets.tolist() == [0, 3, 4, 5]
    assert store.byte_offsets.tolist() == [0, 10, 30, 60]
    assert store.hashes.tolist() == hashes.tolist()
    assert (store.num_tokens, store.num_bytes, store.num_documents) == (5, 60, 3)
    assert isinstance(store.tokens.base, np.memmap), "mapped, not read"


def test_an_empty_store(tmp_path):
    StoreWriter(tmp_path / "store", np.dtype("<u2")).close()
    store = open_store(tmp_path / "store", np.dtype("<u2"))
    assert (store.num_tokens, store.num_bytes, store.num_documents) == (0, 0, 0)


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    StoreWriter(tmp_path / "store", np.dtype("<u2")).close()
    (tmp_path / "store" / "tokens.bin").write_bytes(b"\0\0")
    with pytest.raises(UserError, match="do not fit together; remove the folder"):
        open_store(tmp_path / "store", np.dtype("<u2"))
    (tmp_path / "store" / "hashes.bin").unlink()
    with pytest.raises(UserError, match="the cache is damaged"):
        open_store(tmp_path / "store", np.dtype("<u2"))


def test_descriptions(tmp_path):
    write_description(tmp_path, {"threshold": 2**63})
    assert read_description(tmp_path)["threshold"] == 2**63
