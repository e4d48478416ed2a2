"""Token stores are read as they were written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.data.objectives.windows import read_windows
from llmjax.data.text import store
from llmjax.data.text.store import (
    ChecksummedFile,
    StoreWriter,
    VerifiedBlocks,
    close_cache,
    open_cache,
    open_store,
    token_dtype,
)
from llmjax.errors import UserError
from llmjax.storage.cache_folders import Damaged


@pytest.mark.parametrize(("vocabulary", "size"), [(100, 2), (65_536, 2), (65_537, 4), (250_000, 4)])
def test_written_and_read(tmp_path, vocabulary, size):
    dtype = token_dtype(vocabulary)
    assert dtype.itemsize == size
    writer = StoreWriter(tmp_path / "store", vocabulary)
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
    StoreWriter(tmp_path / "store", 100).close()
    store = open_store(tmp_path / "store", np.dtype("<u2"))
    assert (store.num_tokens, store.num_bytes, store.num_documents) == (0, 0, 0)


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    StoreWriter(tmp_path / "store", 100).close()
    (tmp_path / "store" / "tokens.bin").write_bytes(b"\0\0")
    with pytest.raises(UserError, match=r"do not fit together: .* remove the folder"):
        open_store(tmp_path / "store", np.dtype("<u2"))
    (tmp_path / "store" / "hashes.bin").unlink()
    with pytest.raises(UserError, match="the cache is damaged"):
        open_store(tmp_path / "store", np.dtype("<u2"))


def test_descriptions(tmp_path):
    close_cache(tmp_path, {"threshold": 2**63})
    assert open_cache(tmp_path)["threshold"] == 2**63
    (tmp_path / "description.json").write_text("{}")
    with pytest.raises(Damaged, match=r"description\.json has 2 bytes"):
        open_cache(tmp_path)


def test_ids_beyond_the_vocabulary_are_refused(tmp_path):
    writer = StoreWriter(tmp_path / "store", 100)
    ones = np.ones(1, np.int64)
    with pytest.raises(UserError, match="the id 100, and its vocabulary has 100"):
        writer.append(np.array([100], np.uint32), ones, ones, ones.astype(np.uint64))


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A store of 90,000 tokens, in documents of 9, that is verified block by block."""
    monkeypatch.setattr(store, "VERIFIED_AT_ONCE", 1000)
    count = np.full(10_000, 9, np.int64)
    writer = StoreWriter(tmp_path / "store", 60_000)
    tokens = np.arange(90_000, dtype=np.uint32) % 60_000
    writer.append(tokens, count, count, np.arange(10_000, dtype=np.uint64))
    writer.close()
    return tmp_path / "store"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_large_store_is_verified_where_it_is_read(large):
    flip(large / "tokens.bin", 2 * 50_000)
    tokens = open_store(large, np.dtype("<u2"))
    assert tokens.take(np.array([[0, 5], [7, 80_000]])).tolist() == [[0, 5], [7, 20_000]]
    with pytest.raises(Damaged, match=r"tokens\.bin fails its checksum in bytes 65,536 to 131,072"):
        read_windows(tokens, np.array([3, 49_990]), np.array([20, 20]), 20)
    with pytest.raises(Damaged, match=r"tokens\.crc is missing"):
        open_store(large, np.dtype("<u2"))


@pytest.mark.parametrize("name", ["offsets.bin", "hashes.bin", "byte_offsets.bin", "offsets.crc"])
def test_the_other_files_of_a_large_store_are_verified_when_it_is_opened(large, name):
    flip(large / name, 9)
    with pytest.raises(Damaged, match=r"fails its checksum in bytes 0 to 65,536"):
        open_store(large, np.dtype("<u2"))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 200_000), max_size=5), st.data())
def test_sums_do_not_depend_on_how_a_file_is_written(tmp_path_factory, sizes, data):
    folder = tmp_path_factory.mktemp("sums")
    content = np.random.default_rng(0).bytes(sum(sizes))
    file = ChecksummedFile(folder / "a.bin")
    for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        file.write(content[end - size : end])
    file.close()
    assert (folder / "a.bin").read_bytes() == content
    array = np.frombuffer(content, np.uint8)
    VerifiedBlocks(folder / "a.bin", array).verify_all()
    if sizes and content:
        broken = array.copy()
        broken[data.draw(st.integers(0, len(content) - 1))] ^= 1
        with pytest.raises(Damaged):
            VerifiedBlocks(folder / "a.bin", broken).verify_all()
