"""The token cache: keys, damage, interrupted and concurrent builds."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmjax.data.config import DataConfig
from llmjax.data.text import cache as cache_module
from llmjax.data.text import source as source_module
from llmjax.data.text.corpus import prepare, validation_text
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig, SentencePieceConfig
from llmjax.errors import UserError
from llmjax.storage.cache_folders import Damaged
from llmjax.storage.checksums import with_checksum

from .conftest import write_documents


@pytest.fixture
def config(lines, cache):
    return DataConfig((lines,), 2, 8, cache_dir=cache, workers=1)


@pytest.fixture
def builds(monkeypatch):
    """Counts the caches that are built."""
    count = []
    real = cache_module.StoreWriter

    def counting(folder, vocab_size):
        if folder.name == "train":
            count.append(folder)
        return real(folder, vocab_size)

    monkeypatch.setattr(cache_module, "StoreWriter", counting)
    return count


def tokens(config, tokenizer=BytesConfig()):  # noqa: B008
    return prepare(config, tokenizer)[1].train[0].tokens.tolist()


def test_equal_content_is_reused_wherever_it_lies(config, builds, tmp_path, lines):
    first = tokens(config)
    assert tokens(config) == first
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(Path(lines.paths[0]).read_bytes())
    assert tokens(replace(config, sources=(replace(lines, paths=(str(moved),)),))) == first
    assert tokens(replace(config, batch_size=4, length=16, prefetch=9)) == first
    assert len(builds) == 1


def test_any_change_of_content_is_noticed(config, builds, lines):
    path = Path(lines.paths[0])
    first, stat = tokens(config), path.stat()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"model", b"modem"))  # the same size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and the same time
    assert tokens(config) != first
    path.write_bytes(content)
    assert tokens(config) == first
    assert len(builds) == 2


def test_all_that_tokens_depend_on_is_in_the_key(config, builds, lines):
    sentencepiece = SentencePieceConfig(300)
    changes = [
        config,
        replace(config, validation_fraction=0.1),
        replace(config, validation_max_bytes=500),
        replace(config, sources=(replace(lines, split="chunk", chunk_bytes=88),)),
        replace(config, sources=(replace(lines, split="chunk", chunk_bytes=99),)),
        replace(config, sources=(replace(lines, errors="replace"),)),
    ]
    for change in changes:
        prepare(change, BytesConfig())
    prepare(config, sentencepiece)
    prepare(config, replace(sentencepiece, model_type="unigram"))
    assert len(builds) == len(changes) + 2


def test_the_order_of_files_counts(tmp_path, config, builds):
    paths = []
    for seed in range(2):
        write_documents(tmp_path / f"{seed}.txt", 50, seed)
        paths.append(str(tmp_path / f"{seed}.txt"))
    for order in (paths, paths[::-1]):
        prepare(replace(config, sources=(TextSource(tuple(order), split="line"),)), BytesConfig())
    assert len(builds) == 2


class Edited(TextSource):
    """A file that grows while it is read."""

    def documents(self, cache_dir=None):
        with open(self.paths[0], "a") as file:
            file.write("one more line\n")
        return super().documents(cache_dir)


def test_a_file_that_changes_while_it_is_read_is_refused(config, lines):
    edited = replace(config, sources=(Edited(lines.paths, lines.split),))
    with pytest.raises(UserError, match="changed while it was read"):
        prepare(edited, BytesConfig())
    folders = [path for path in Path(config.cache_dir, "tokens").iterdir() if path.is_dir()]
    assert folders == []


def test_large_files_are_hashed_once(lines, cache, monkeypatch):
    monkeypatch.setattr(source_module, "REMEMBERED", 10)
    monkeypatch.setattr(source_module, "SETTLED_SECONDS", 0.0)
    first = lines.identify(cache)
    note = next(Path(cache, "hashes").iterdir())
    remembered = json.loads(note.read_text())
    note.write_text(json.dumps(with_checksum(remembered | {"hash": "f" + remembered["hash"]})))
    assert lines.identify(cache).digest != first.digest, "what is remembered is used"
    path, content = Path(lines.paths[0]), Path(lines.paths[0]).read_bytes()
    path.write_bytes(content)  # a new time of change
    assert lines.identify(cache).digest == first.digest


def test_a_damaged_note_of_a_hash_is_not_used(lines, cache, monkeypatch):
    monkeypatch.setattr(source_module, "REMEMBERED", 10)
    monkeypatch.setattr(source_module, "SETTLED_SECONDS", 0.0)
    first = lines.identify(cache)
    note = next(Path(cache, "hashes").iterdir())
    content = note.read_bytes()
    for index in range(len(content)):
        note.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        assert lines.identify(cache) == first
    note.write_bytes(b"[" * 10_000)
    assert lines.identify(cache) == first


def test_a_file_changed_just_now_is_not_remembered(lines, cache, monkeypatch):
    monkeypatch.setattr(source_module, "REMEMBERED", 10)
    monkeypatch.setattr(source_module, "SETTLED_SECONDS", 3600.0)
    lines.identify(cache)
    assert not Path(cache, "hashes").exists()


def everything(config):
    """The whole content of a corpus."""
    corpus = prepare(config, BytesConfig())[1]
    arrays = [
        getattr(store, name).tolist()
        for store in (corpus.train[0], corpus.sources[0].validation)
        for name in ("tokens", "offsets", "byte_offsets", "hashes")
    ]
    return arrays, corpus.sources[0].threshold, validation_text(corpus)


def test_damage_is_named_and_the_cache_is_built_again(config, builds, caplog):
    first = everything(config)
    file = next(Path(config.cache_dir, "tokens").glob("*/train/tokens.bin"))
    file.write_bytes(file.read_bytes()[:-2])
    assert everything(config) == first
    assert "the cache is damaged: its files do not fit together" in caplog.text
    assert "rebuilding it" in caplog.text
    (file.parents[1] / "description.json").unlink()
    assert everything(config) == first
    assert len(builds) == 3
    assert everything(config) == first
    assert len(builds) == 3, "the new one is whole"
    folders = [path for path in Path(config.cache_dir, "tokens").iterdir() if path.is_dir()]
    assert len(folders) == 1, "nothing is left of the damaged ones"


def test_no_flipped_bit_is_used(tmp_path, builds):
    """Flips bits in every file of a small cache."""
    write_documents(tmp_path / "lines.txt", 12)
    source = TextSource((str(tmp_path / "lines.txt"),), split="line")
    folder = str(tmp_path / "cache")
    config = DataConfig((source,), 1, 4, 0.4, cache_dir=folder, workers=1)
    first = everything(config)
    (cached,) = (path for path in Path(folder, "tokens").iterdir() if path.is_dir())
    files = [path for path in sorted(cached.rglob("*")) if path.is_file()]
    assert len(files) == 2 * 8 + 3
    generator = random.Random(0)
    for file in files:
        content = file.read_bytes()
        broken = bytearray(content)
        for index in generator.sample(range(len(content)), min(60, len(content))):
            broken[index] ^= 1 << generator.randrange(8)
            file.write_bytes(broken)
            try:
                cache_module.open_tokens(cached, "", np.dtype("<u2"))
            except Damaged as error:
                assert str(error.thing).startswith(str(cached))  # noqa: PT017 (either is fine)
            else:  # a blank between words of the list of checksums
                assert json.loads(broken) == json.loads(content)
            broken[index] = content[index]
        built = len(builds)
        broken[0] ^= 1
        file.write_bytes(broken)
        assert everything(config) == first
        assert len(builds) == built + 1


def test_a_cache_that_is_damaged_again_and_again_is_refused(config, monkeypatch):
    real = cache_module.close_cache

    def failing_disk(folder, description):
        real(folder, description)
        (folder / "description.json").write_text("{}")

    monkeypatch.setattr(cache_module, "close_cache", failing_disk)
    with pytest.raises(UserError, match=r"the cache is damaged: description.json .*remove the"):
        prepare(config, BytesConfig())


def test_a_damaged_tokenizer_of_the_cache_is_trained_again(config, caplog):
    tokenizer = SentencePieceConfig(300)
    first = prepare(config, tokenizer)[0]
    files = sorted(Path(config.cache_dir, "tokenizers").glob("*/*"))
    assert len(files) == 4
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:30] + bytes([content[30] ^ 2]) + content[31:])
    shutil.rmtree(Path(config.cache_dir, "tokens"))
    assert prepare(config, tokenizer)[0].fingerprint == first.fingerprint
    assert caplog.text.count("rebuilding it") == 2


PREPARE = """
import sys, time
from llmjax.data.config import DataConfig
from llmjax.data.text.corpus import prepare
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig
path, folder, pause = sys.argv[1:]
class Slow(TextSource):
    def documents(self, cache_dir=None):
        for number, text in enumerate(super().documents(cache_dir)):
            if number % 20 == 10:
                print("under way", flush=True)
                time.sleep(float(pause))
            yield text
config = DataConfig((Slow((path,), split="line"),), 2, 8, cache_dir=folder, workers=1)
print(prepare(config, BytesConfig())[1].num_tokens)
"""


def start(lines, config, pause):
    command = [sys.executable, "-c", PREPARE, lines.paths[0], config.cache_dir, str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_leaves_nothing_that_is_used(config, lines, builds):
    process = start(lines, config, 60)
    assert process.stdout.readline() == "under way\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = Path(config.cache_dir, "tokens")
    left = [path for path in folder.iterdir() if path.is_dir()]
    assert len(left) == 1
    assert left[0].name.endswith(".tmp")
    tokens(config)
    assert len(builds) == 1
    names = {path.suffix for path in folder.iterdir() if path.is_dir()}
    assert names == {""}, "what the killed one left is removed"


def test_builders_at_the_same_time_agree_and_one_works(config, lines):
    processes = [start(lines, config, 0.02) for _ in range(3)]
    outputs = [process.communicate()[0].split("\n") for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({output[-2] for output in outputs}) == 1
    assert sum("under way" in output for output in outputs) == 1
    assert int(outputs[0][-2]) == len(tokens(config))


def test_an_unwritable_cache_is_a_user_error(config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(replace(config, cache_dir=str(tmp_path / "file" / "cache")), BytesConfig())


def test_progress_is_reported(config):
    seen = []
    prepare(config, SentencePieceConfig(300), None, lambda *args: seen.append(args))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == [
        "Sampling the text source",
        "Training the tokenizer",
        "Tokenizing the text source",
    ]
    size = Path(config.sources[0].paths[0]).stat().st_size
    assert all(0 <= done <= (total or size) for _, done, total in seen)
