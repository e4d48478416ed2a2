"""Token stores in buckets and folders: built, continued, read, damaged."""

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmjax.data.config import DataConfig
from llmjax.data.loader import CorpusFeed, batch_at
from llmjax.data.text import publish, shards
from llmjax.data.text.blocks import record_size
from llmjax.data.text.corpus import prepare, validation_text
from llmjax.data.text.store_building import build_store
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.errors import UserError
from llmjax.storage.stores.path import location
from object_stores import SERVERS

BYTES = BytesConfig()


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> tuple[str, ...]:
    """Three files of 90 documents, about 200 KB of bytes each; some are copies."""
    folder, names = tmp_path_factory.mktemp("text"), []
    generator = random.Random(0)
    for number in range(3):
        lines = [f"{number}-{i} " + "x y " * generator.randrange(1000) for i in range(90)]
        copies = [f"copy {i}" for i in range(5)]
        path = folder / f"{number}.txt"
        path.write_text("\n".join(lines + copies) + "\n", encoding="utf-8")
        names.append(str(path))
    return tuple(names)


@pytest.fixture(scope="module")
def local(text, tmp_path_factory) -> DataConfig:
    """Without a store; all tests share its cache."""
    source = TextSource(text, split="line")
    cache = str(tmp_path_factory.mktemp("cache"))
    return DataConfig((source,), 4, 64, 0.1, shards=3, cache_dir=cache, workers=1)


def same_batches(config: DataConfig, other: DataConfig, steps=(0, 7, 250)) -> None:
    """Both corpora give the same batches, and hold the same validation documents."""
    (_, corpus), (_, expected) = prepare(config, BYTES), prepare(other, BYTES)
    assert corpus.fingerprint == expected.fingerprint
    assert validation_text(corpus) == validation_text(expected) != b""
    assert corpus.sources[0].duplicates == expected.sources[0].duplicates
    for name in ("num_tokens", "num_bytes", "num_documents"):
        assert getattr(corpus, name) == getattr(expected, name)
    for step in steps:
        batch = batch_at(corpus, config, 5, step)
        for name, values in batch_at(expected, other, 5, step).items():
            np.testing.assert_array_equal(batch[name], values, err_msg=name)


def test_batches_are_those_of_the_cache(server, local, text, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "copies"))
    built = replace(local, store=server.address("tokens"))
    build_store(built, BYTES)
    hidden = [Path(name).rename(f"{name}.hidden") for name in text]
    try:  # neither the text nor the cache is used
        same_batches(replace(built, cache_dir=None), built)
        reader = replace(built, cache_dir=str(tmp_path / "another"))
        corpus = prepare(reader, BYTES)[1]
        start = len(server.requests)
        batch_at(corpus, reader, 5, 3)
        assert 0 < len(server.requests) - start <= 2 * reader.batch_size
        start = len(server.requests)
        batch_at(corpus, reader, 5, 3)
        assert len(server.requests) == start, "the blocks are in the cache"
        assert not list(tmp_path.glob("another/tokens*"))
    finally:
        for path in hidden:
            path.rename(path.with_suffix(""))
    same_batches(built, local)


@pytest.mark.parametrize("changes", [{"shards": 1}, {"shards": 1, "deduplicate": "global"}, {}])
def test_a_store_in_a_folder(local, tmp_path, changes):
    local = replace(local, **changes)
    stored = replace(local, store=str(tmp_path / "tokens"))
    build_store(stored, BYTES)
    same_batches(stored, local)
    assert not list(tmp_path.glob("**/*.publish*"))


def test_two_sources_and_a_batch_of_all_tokens(local, text, tmp_path, monkeypatch):
    sources = (TextSource(text[:1], split="line", weight=2.0), TextSource(text[1:], split="line"))
    local = replace(local, sources=sources)
    stored = replace(local, store=str(tmp_path / "tokens"))
    build_store(stored, BYTES)
    same_batches(stored, local)
    monkeypatch.setattr("llmjax.data.text.stored.IN_MEMORY", 1)  # block by block
    streams = [prepare(config, BYTES)[1].train for config in (stored, local)]
    for stream, expected in zip(*streams, strict=True):
        indices = np.arange(expected.num_tokens).reshape(1, -1)
        for values, wanted in zip(stream.read(indices), expected.read(indices), strict=True):
            np.testing.assert_array_equal(values, wanted)


def test_a_flipped_byte_is_named(server, local, tmp_path):
    config = replace(
        local, store=server.address("flipped"), cache_dir=str(tmp_path), store_cache_bytes=0
    )
    build_store(config, BYTES)
    corpus = prepare(config, BYTES)[1]
    path = next(
        location(config.store) / name
        for name in location(config.store).files()
        if "/tokens/00001" in name
    )
    data = bytearray(path.read_bytes(1 << 30))
    record = record_size(np.dtype("<u2"))
    for byte in (record + 5, 2 * record - 1, 2 * record - 100):
        data[byte] ^= 4
        path.write_bytes(bytes(data))
        with pytest.raises(
            UserError, match=rf"00001-of-00003\.bin: fails its checksum in bytes {record:,} "
        ):
            corpus.train[0].take(np.arange(corpus.num_tokens))
        data[byte] ^= 4
    swapped = data[record : 2 * record] + data[:record] + data[2 * record :]
    path.write_bytes(bytes(swapped))
    with pytest.raises(UserError, match=r"checksum in bytes 0 to"):
        corpus.train[0].take(np.arange(corpus.num_tokens))
    path.write_bytes(bytes(data[:-1]))
    with pytest.raises(UserError, match=r"00001-of-00003\.bin: has .* bytes, and should have"):
        prepare(config, BYTES)
    path.unlink()
    with pytest.raises(UserError, match=r"00001-of-00003\.bin: is missing from the token store"):
        prepare(config, BYTES)


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_a_damaged_block_of_the_cache_is_fetched_again(server, local, tmp_path):
    config = replace(local, store=server.address("kept"), cache_dir=str(tmp_path))
    build_store(config, BYTES)
    corpus = prepare(config, BYTES)[1]
    expected = corpus.train[0].take(np.arange(corpus.num_tokens))
    kept = sorted(tmp_path.glob("stores/blocks/*/*"))
    assert len(kept) == 3
    for path in kept:
        os.truncate(path, path.stat().st_size // 2)
    start = len(server.requests)
    np.testing.assert_array_equal(corpus.train[0].take(np.arange(corpus.num_tokens)), expected)
    assert len(server.requests) - start == 3, "neighbouring blocks are one request"


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_what_is_missing_is_named_and_the_build_continues(server, local, tmp_path, monkeypatch):
    config = replace(local, store=server.address("partly"), cache_dir=str(tmp_path / "first"))
    with pytest.raises(UserError, match=r"holds no token store; run llmjax data build CONFIG --da"):
        prepare(config, BYTES)
    publish_shard = publish.publish_shard
    built = []

    def fail_at_the_third(target, shard, *rest):
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(shard)
        publish_shard(target, shard, *rest)

    monkeypatch.setattr(shards, "publish_shard", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build_store(config, BYTES)
    (missing,) = {0, 1, 2} - set(built)
    message = rf"missing: 1 of 3 shards of source 0 \({missing}\); run llmjax"
    with pytest.raises(UserError, match=message):
        prepare(config, BYTES)
    # Another machine, without this one's cache, builds the one that is missing.
    other = replace(config, cache_dir=str(tmp_path / "second"))
    monkeypatch.setattr(shards, "publish_shard", publish_shard)
    filled = []
    fill_shard = shards.fill_shard
    monkeypatch.setattr(
        shards,
        "fill_shard",
        lambda s, shard, *rest: (filled.append(shard), fill_shard(s, shard, *rest)),
    )
    build_store(other, BYTES)
    assert filled == [missing]
    monkeypatch.setattr(shards, "fill_shard", None)  # nothing is built any more
    build_store(other, BYTES)
    monkeypatch.setattr(shards, "fill_shard", fill_shard)
    same_batches(config, local)


def test_what_another_machine_publishes_meanwhile_is_left_out(local, tmp_path, monkeypatch):
    config = replace(local, store=str(tmp_path / "store"), cache_dir=str(tmp_path / "first"))
    fill_shard, filled = shards.fill_shard, []

    def fill(sharding, shard, *rest):
        filled.append(shard)
        if len(filled) == 1:
            build_store(replace(config, cache_dir=str(tmp_path / "second")), BYTES)
        fill_shard(sharding, shard, *rest)

    monkeypatch.setattr(shards, "fill_shard", fill)
    build_store(config, BYTES)
    assert sorted(filled[1:]) == [0, 1, 2]  # by the second machine; the first one completes its own
    same_batches(config, local)


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_nothing_is_visible_of_a_shard_whose_upload_is_killed(server, local, tmp_path, monkeypatch):
    config = replace(local, store=server.address("killed"))
    root = location(config.store)

    def killed(path, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "put_bytes", killed)  # the marker's
    with pytest.raises(KeyboardInterrupt):
        build_store(config, BYTES)
    assert not [name for name in root.files() if "/shards/" in name]
    with pytest.raises(UserError, match="3 of 3 shards of source 0"):
        prepare(config, BYTES)
    monkeypatch.undo()
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path))
    build_store(config, BYTES)
    same_batches(config, local)


def test_a_store_of_another_config_or_text_is_refused(local, text, tmp_path):
    copies = [shutil.copy(name, tmp_path) for name in text]
    source = TextSource(tuple(copies), split="line")
    config = replace(local, sources=(source,), store=str(tmp_path / "tokens"))
    build_store(config, BYTES)
    for changes, name in (
        ({"shards": 2}, r"data\.shards \(3 -> 2\)"),
        ({"sources": local.sources}, r"data\.sources"),
        ({"validation_fraction": 0.2}, r"data\.validation_fraction"),
    ):
        for call in (prepare, build_store):
            with pytest.raises(UserError, match=f"holds the tokens of another config.*{name}"):
                call(replace(config, **changes), BYTES)
    same_batches(replace(config, batch_size=2, length=32), replace(local, batch_size=2, length=32))
    Path(copies[0]).write_text("other\n")
    prepare(config, BYTES)
    with pytest.raises(UserError, match="was begun with other text: the sources have changed"):
        build_store(config, BYTES)


def test_a_damaged_manifest_is_named(local, tmp_path):
    config = replace(local, store=str(tmp_path))
    build_store(config, BYTES)
    for name, content in (("store.json", "{}"), ("store.json", "["), ("plan.json", "1")):
        (tmp_path / "store.json").unlink(missing_ok=True)
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            prepare(config, BYTES)


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_a_process_reads_its_rows_alone(server, local, tmp_path):
    config = replace(
        local, store=server.address("rows"), cache_dir=str(tmp_path), store_cache_bytes=0
    )
    build_store(config, BYTES)
    feed = CorpusFeed(prepare(config, BYTES)[1], config, 5)
    counts = []
    for rows in ([0], [1], [2, 3], range(4)):
        start = len(server.requests)
        feed.read(11, rows)
        counts.append(len(server.requests) - start)
    assert sum(counts[:3]) == counts[3] <= 2 * 4
