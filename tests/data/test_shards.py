"""Sources in shards: the same documents for any number of shards, whoever builds them."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmjax.data.config import DataConfig
from llmjax.data.loader import batch_at
from llmjax.data.text import merging, shards
from llmjax.data.text.corpus import Corpus, prepare, validation_text
from llmjax.data.text.sharded import ShardedStore
from llmjax.data.text.store import TokenStore
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.errors import UserError

from .conftest import write_documents

LIMIT = 900
"""Bytes of validation text: fewer than the share of documents has."""


@pytest.fixture
def config(tmp_path, cache) -> DataConfig:
    """Three files of 150 documents, some of them copies within and across files."""
    paths = []
    for seed in range(3):
        path = tmp_path / f"{seed}.txt"
        lines = write_documents(path, 150, seed)
        copies = [*lines[:5], *(first_lines(paths[0])[5:12] if paths else [])]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in copies)
        paths.append(str(path))
    source = TextSource(tuple(paths), split="line")
    return DataConfig((source,), 4, 16, 0.2, LIMIT, cache_dir=cache, workers=1)


def first_lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def opened(config: DataConfig) -> Corpus:
    return prepare(config, BytesConfig())[1]


def stream(corpus: Corpus) -> np.ndarray:
    store = corpus.train[0]
    return store.take(np.arange(store.num_tokens))


def documents(corpus: Corpus) -> list[bytes]:
    eos = corpus.eos_id
    return [
        bytes(part[part != eos].tolist())
        for part in np.split(stream(corpus), np.flatnonzero(stream(corpus) == eos) + 1)[:-1]
    ]


def digests(folder: str) -> dict[str, str]:
    """The content of all files of the token caches."""
    root = Path(folder, "tokens")
    files = [path for path in root.rglob("*") if path.is_file() and ".lock" not in path.name]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 11])
def test_the_documents_are_the_same_for_any_number_of_shards(config, count):
    whole = opened(config)
    sharded = opened(replace(config, shards=count, deduplicate="global"))
    assert isinstance(whole.train[0], TokenStore)
    assert isinstance(sharded.train[0], ShardedStore)
    assert sorted(documents(sharded)) == sorted(documents(whole))
    assert len(set(documents(sharded))) == sharded.num_documents
    assert 0 < len(validation_text(sharded)) <= LIMIT
    assert sharded.sources[0].threshold == whole.sources[0].threshold < 0.2 * 2**64
    assert sorted(sharded.sources[0].validation.hashes) == sorted(
        whole.sources[0].validation.hashes
    )
    for name in ("num_tokens", "num_bytes", "num_documents"):
        assert getattr(sharded, name) == getattr(whole, name)
    assert sharded.sources[0].duplicates == whole.sources[0].duplicates == 3 * 5 + 2 * 7


def test_the_validation_text_has_the_order_of_the_source(config):
    texts = {validation_text(opened(replace(config, shards=n))) for n in (2, 3, 4, 7)}
    lines = [line for path in config.sources[0].paths for line in first_lines(path)]
    (text,) = texts
    rest = text.decode()
    for line in lines:
        rest = rest.removeprefix(line)
    assert not rest


def test_within_a_window_copies_in_other_shards_remain(config):
    corpus = opened(replace(config, shards=3))
    assert corpus.num_documents > len(set(documents(corpus)))
    assert corpus.sources[0].duplicates == 3 * 5
    training, validation = set(documents(corpus)), validation_text(corpus)
    assert not [text for text in training if text in validation], "copies of validation documents"


def test_a_batch_of_shards_is_that_of_one_store_with_their_documents(config):
    config = replace(config, shards=7, deduplicate="global")
    corpus = opened(config)
    ends = np.flatnonzero(stream(corpus) == corpus.eos_id) + 1
    offsets = np.concatenate([[0], ends])
    zeros = np.zeros(len(offsets), np.int64)
    one = TokenStore(stream(corpus), offsets, zeros, zeros[1:].view(np.uint64))
    expected = replace(corpus, sources=(replace(corpus.sources[0], train=one),))
    for step in (0, 3, 200):
        batch, other = (batch_at(part, config, 1, step) for part in (corpus, expected))
        for name, values in batch.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_shards_do_not_depend_on_the_workers(config, tmp_path):
    config = replace(config, shards=4)
    opened(config)
    opened(replace(config, workers=2, cache_dir=str(tmp_path / "other")))
    assert digests(str(tmp_path / "other")) == digests(config.cache_dir)


def test_an_interrupted_build_continues_with_the_missing_shards(config, tmp_path, monkeypatch):
    config = replace(config, shards=5)
    opened(replace(config, cache_dir=str(tmp_path / "other")))
    real, built = shards.fill_shard, []

    def failing(sharding, shard, tokenizer, report, folder):
        real(sharding, shard, tokenizer, report, folder)
        built.append(shard)
        if len(built) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(shards, "fill_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        opened(config)
    opened(config)
    assert built[2] in built[3:]  # it was not complete
    assert sorted([*built[:2], *built[3:]]) == [0, 1, 2, 3, 4]
    assert digests(config.cache_dir) == digests(str(tmp_path / "other"))


def test_a_damaged_shard_is_built_again_alone(config, monkeypatch):
    config = replace(config, shards=4, deduplicate="global")
    opened(config)
    first, built = digests(config.cache_dir), []
    real = merging.fill_shard

    def counting(sharding, shard, tokenizer, report, folder):
        built.append(shard)
        real(sharding, shard, tokenizer, report, folder)

    monkeypatch.setattr(merging, "fill_shard", counting)
    for name in ("documents/tokens.bin", "candidates.npy", "heldout.txt", "documents/hashes.bin"):
        (file,) = Path(config.cache_dir, "tokens").glob(f"*/00002-of-00004/{name}")
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        opened(config)
        assert built.pop() == 2
        assert not built
        assert digests(config.cache_dir) == first


def test_a_source_without_text_is_refused(tmp_path, cache):
    (tmp_path / "empty.txt").touch()
    source = TextSource((str(tmp_path / "empty.txt"),))
    with pytest.raises(UserError, match="holds no text"):
        prepare(DataConfig((source,), shards=3, cache_dir=cache, workers=1), BytesConfig())


@pytest.mark.parametrize("at_once", [7, 1 << 20])
def test_later_copies_are_found_in_groups(at_once, monkeypatch):
    monkeypatch.setattr(merging, "HASHES_AT_ONCE", at_once)
    generator, seen, expected = random.Random(0), set(), []
    hashes = [[generator.randrange(40) << 58 | 3 for _ in range(n)] for n in (30, 0, 25)]
    for hash_ in (hash_ for part in hashes for hash_ in part):
        expected.append(hash_ in seen)
        seen.add(hash_)
    assert merging.later_copies([np.array(h, np.uint64) for h in hashes]).tolist() == expected


def test_no_more_than_max_tokens_are_prepared(config, tmp_path):
    limited = replace(config, shards=3, max_tokens=9000)
    corpus, whole = opened(limited), opened(replace(config, shards=3))
    assert 9000 <= corpus.num_tokens < whole.num_tokens // 2
    other = replace(limited, cache_dir=str(tmp_path / "workers"), workers=2)
    np.testing.assert_array_equal(stream(opened(other)), stream(corpus))
    assert not [text for text in documents(corpus) if text in validation_text(corpus)]
    every = replace(limited, max_tokens=10**9, cache_dir=str(tmp_path / "other"))
    np.testing.assert_array_equal(stream(opened(every)), stream(whole))


def test_max_tokens_are_shared_by_weight(tmp_path):
    sources = tuple(TextSource((str(tmp_path / "a"),), weight=weight) for weight in (3.0, 1.0))
    config = DataConfig(sources, shards=2, max_tokens=1000)
    assert [config.max_shard_tokens(source) for source in sources] == [375, 125]
