"""Shards built by datatrove, and near duplicates found by it."""

import hashlib
import importlib.util
import itertools
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from llmjax.data.config import DataConfig
from llmjax.data.datatrove.executors import Executor, LocalExecutor, RayExecutor, SlurmExecutor
from llmjax.data.loader import batch_at
from llmjax.data.text.corpus import Corpus, prepare, share_shards, validation_text
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.errors import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MARK = "EDITED"


@pytest.fixture
def config(tmp_path) -> DataConfig:
    """Documents of 150 words, and in another file 12 of them with a word changed."""
    generator = random.Random(0)
    words = [a + b for a in LETTERS for b in LETTERS]
    documents = [generator.choices(words, k=150) for _ in range(120)]
    edited = [[*document] for document in documents[:12]]
    for document in edited:
        document[generator.randrange(150)] = MARK
    paths = []
    for name, lines in (("a.txt", documents), ("b.txt", edited)):
        (tmp_path / name).write_text("".join(" ".join(line) + "\n" for line in lines))
        paths.append(str(tmp_path / name))
    source = TextSource(tuple(paths), split="line")
    cache = str(tmp_path / "cache")
    return DataConfig((source,), 4, 16, 0.1, cache_dir=cache, shards=4, workers=1)


def opened(config: DataConfig, executor: Executor | None = None) -> Corpus:
    return prepare(config, BytesConfig(), executor=executor)[1]


def documents(corpus: Corpus) -> list[str]:
    """The documents to train on and those to validate on."""
    store = corpus.train[0]
    tokens = store.take(np.arange(store.num_tokens))
    ends = np.flatnonzero(tokens == corpus.eos_id)
    texts = [bytes(part[part != corpus.eos_id].tolist()) for part in np.split(tokens, ends)[:-1]]
    text = validation_text(corpus)
    ends = corpus.sources[0].validation.byte_offsets
    held_out = [text[start:end] for start, end in itertools.pairwise(ends)]
    return [text.decode() for text in texts + held_out]


def digests(config: DataConfig) -> dict[str, str]:
    root = Path(config.cache_dir, "tokens")
    files = [path for path in root.rglob("[!.]*") if path.is_file()]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_processes_of_datatrove_build_the_same_store(config, tmp_path):
    opened(config)
    other = replace(config, cache_dir=str(tmp_path / "other"), workers=2)
    opened(other, LocalExecutor())
    assert digests(other) == digests(config)
    assert not list(Path(other.cache_dir, "datatrove").glob("*/*"))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_batch_does_not_depend_on_the_processes_that_prepared_it(config, tmp_path, processes):
    whole = opened(config)
    other = replace(config, cache_dir=str(tmp_path / "other"))
    for index in reversed(range(processes)):
        share_shards(other, BytesConfig(), shards=slice(index, None, processes))
    shared = opened(other)
    for step in random.Random(0).sample(range(10_000), 10):
        batch, expected = (batch_at(corpus, config, 1, step) for corpus in (shared, whole))
        for name, values in batch.items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_of_similar_documents_one_is_kept(config, tmp_path):
    config = replace(config, deduplicate="minhash")
    corpus = opened(config)
    kept = documents(corpus)
    assert len(kept) == 120
    assert corpus.sources[0].duplicates == 12
    lines = [Path(path).read_text().splitlines() for path in config.sources[0].paths]
    for line, edited in zip(lines[0], lines[1], strict=False):
        assert (line in kept) != (edited in kept)
    assert set(lines[0][12:]) < set(kept)


def test_a_search_for_near_duplicates_continues(config, tmp_path, monkeypatch):
    config = replace(config, deduplicate="minhash", shards=3)
    opened(replace(config, cache_dir=str(tmp_path / "other")))
    run = LocalExecutor.run

    def until_clusters(self, stage, workers):
        if stage.name == "clusters":
            raise KeyboardInterrupt
        run(self, stage, workers)

    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "run", until_clusters)
        with pytest.raises(KeyboardInterrupt):
            opened(config)
    from llmjax.data.datatrove import steps

    monkeypatch.setattr(steps, "shard_documents", None)  # the signatures are there
    opened(config)
    assert digests(config) == digests(replace(config, cache_dir=str(tmp_path / "other")))


@dataclass(frozen=True)
class Cluster(Executor):
    """Loses the errors of its tasks."""

    def _start(self, stage, workers):
        from llmjax.data.datatrove.engines import run_local

        try:
            return run_local(stage, 1)
        except UserError:
            from datatrove.executor import LocalPipelineExecutor

            return LocalPipelineExecutor([], stage.tasks, logging_dir=str(stage.logs))


@pytest.mark.parametrize("executor", [LocalExecutor(), Cluster()])
def test_a_damaged_file_is_named(config, executor, tmp_path):
    (tmp_path / "b.txt").write_bytes(b"one\n\xff\n")
    with pytest.raises(UserError, match=r"b.txt: is not UTF-8: byte 0xff at offset 4"):
        opened(config, executor)


def test_what_is_missing_is_named(config, monkeypatch):
    with pytest.raises(UserError, match=r"partition: missing"):
        opened(config, SlurmExecutor())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"sbatch is not on the PATH"):
        opened(config, SlurmExecutor("cpu"))
    found = importlib.util.find_spec
    for executor, missing, extra in (
        (RayExecutor(), "ray", "ray"),
        (LocalExecutor(), "datatrove", "datatrove"),
    ):
        hidden = lambda name, missing=missing: None if name == missing else found(name)  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", hidden)
        with pytest.raises(UserError, match=rf"pip install 'llmjax\[{extra}\]'"):
            opened(config, executor)
    with pytest.raises(UserError, match=r"pip install 'llmjax\[datatrove\]'"):
        opened(replace(config, deduplicate="minhash"))
