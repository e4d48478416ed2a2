"""Small corpora and temporary caches."""

import random
from pathlib import Path

import pytest

from llmjax.data.config import DataConfig
from llmjax.data.text.corpus import Corpus, prepare
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig

WORDS = ["the", "of", "model", "token", "batch", "mesh", "epoch", "héllo", "你好", "\t", "x=1"]


def write_documents(path: Path, count: int, seed: int = 0) -> list[str]:
    """Writes `count` different lines to `path` and returns them."""
    generator = random.Random(seed)
    lines = [
        f"{seed}-{i} " + " ".join(generator.choices(WORDS, k=generator.randrange(1, 30)))
        for i in range(count)
    ]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return lines


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def lines(tmp_path) -> TextSource:
    """A source of 200 documents."""
    write_documents(tmp_path / "lines.txt", 200)
    return TextSource((str(tmp_path / "lines.txt"),), split="line")


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> tuple[Corpus, DataConfig]:
    """A corpus of 200 documents in bytes; batches of 4 rows of 16 tokens."""
    folder = tmp_path_factory.mktemp("small")
    write_documents(folder / "lines.txt", 200)
    source = TextSource((str(folder / "lines.txt"),), split="line")
    config = DataConfig((source,), 4, 16, cache_dir=str(folder / "cache"), workers=1)
    return prepare(config, BytesConfig())[1], config


@pytest.fixture(scope="session")
def mixture(tmp_path_factory) -> tuple[Corpus, DataConfig]:
    """Two sources of 60 and 300 documents, with 3/4 and 1/4 of the rows."""
    folder = tmp_path_factory.mktemp("mixture")
    sources = []
    for seed, (count, weight) in enumerate([(60, 3.0), (300, 1.0)]):
        write_documents(folder / f"{seed}.txt", count, seed)
        sources.append(TextSource((str(folder / f"{seed}.txt"),), split="line", weight=weight))
    config = DataConfig(tuple(sources), 8, 16, cache_dir=str(folder / "cache"), workers=1)
    return prepare(config, BytesConfig())[1], config
