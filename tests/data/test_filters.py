"""Filters: datatrove's, with the same results as in its own pipelines, whoever applies them."""

import csv
import hashlib
import importlib.util
import inspect
import itertools
import random
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from llmjax import (
    C4QualityFilter,
    CsvSource,
    DataConfig,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
    RegexFilter,
    SamplerFilter,
    TextSource,
    URLFilter,
)
from llmjax.data.datatrove.executors import LocalExecutor
from llmjax.data.text import shards
from llmjax.data.text.corpus import Corpus, prepare, share_shards, validation_text
from llmjax.data.text.filters import FILTERS, FilterChain, RawDocument
from llmjax.data.text.source import filtered, identify_filtered
from llmjax.data.text.store_layout import request_of
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.errors import UserError

WORDS = "the of and to that with model token batch mesh epoch being house river".split()
FILTERS_HERE = (
    RegexFilter("river river house"),
    GopherQualityFilter(min_doc_words=20, language=""),
    GopherRepetitionFilter(language="", dup_n_grams=()),
    C4QualityFilter(min_num_sentences=-1, language=""),
    FineWebQualityFilter(language="", short_line_length=8, new_line_ratio=0.05),
)


def write_rows(path: Path, seed: int) -> None:
    """A CSV file of texts, some too short, repeated, or without punctuation in a line."""
    generator = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["url", "text"])
        for number in range(100):
            lines = [
                " ".join(generator.choices(WORDS, k=generator.randrange(1, 40)))
                + generator.choice(["", ".", ".", ".", " “größer”!", "\n"])
                for _ in range(generator.randrange(8))
            ]
            lines = [line for line in lines for _ in range(generator.choice([1] * 9 + [3]))]
            rows.writerow([f"http://a{number}.com", "\n".join(lines)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for seed in range(3):
        write_rows(folder / f"{seed}.csv", seed)
    return folder


@pytest.fixture
def config(folder, cache) -> DataConfig:
    source = CsvSource((str(folder / "*.csv"),), filters=(*FILTERS_HERE, SamplerFilter(0.8, 3)))
    return DataConfig((source,), 4, 16, 0.2, cache_dir=cache, workers=1)


def opened(config: DataConfig, **options) -> Corpus:
    return prepare(config, BytesConfig(), **options)[1]


def documents(corpus: Corpus) -> list[bytes]:
    """The documents to train on, and those to validate on."""
    store = corpus.train[0]
    tokens = store.take(np.arange(store.num_tokens))
    ends = np.flatnonzero(tokens == corpus.eos_id)
    parts = np.split(tokens, ends)[:-1]
    text, ends = validation_text(corpus), corpus.sources[0].validation.byte_offsets
    held_out = [text[start:end] for start, end in itertools.pairwise(ends)]
    return [bytes(part[part != corpus.eos_id].tolist()) for part in parts] + held_out


def digests(config: DataConfig) -> dict[str, str]:
    root = Path(config.cache_dir, "tokens")
    files = [path for path in root.rglob("[!.]*") if path.is_file()]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_the_same_documents_pass_as_in_a_pipeline_of_datatrove(folder, tmp_path):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import filters, readers

    from llmjax.data.datatrove.words import Words

    passed = []

    def collect(data, rank, world_size):
        passed.extend(document.text for document in data)

    words = {"language": Words()}
    steps = [
        filters.RegexFilter("river river house"),
        filters.GopherQualityFilter(min_doc_words=20, **words),
        filters.GopherRepetitionFilter(dup_n_grams=(), **words),
        filters.C4QualityFilter(min_num_sentences=-1, **words),
        filters.FineWebQualityFilter(short_line_length=8, new_line_ratio=0.05, **words),
    ]
    reader = readers.CSVReader(str(folder), glob_pattern="*.csv")
    pipeline = [reader, *steps, collect]
    stats = LocalPipelineExecutor(pipeline, logging_dir=str(tmp_path)).run()

    source = CsvSource((str(folder / "*.csv"),), filters=FILTERS_HERE)
    chain = FilterChain(source.filters)
    ours = list(filtered(source, chain=chain))
    assert ours == [text for text in passed if text]
    assert 20 < len(ours) < 0.8 * len(list(source.documents()))
    without_text = 0
    for count, step in zip(chain.dropped, stats.stats[1:], strict=True):
        theirs = {
            name.removeprefix("dropped_"): int(value.total)
            for name, value in step.stats.items()
            if name.startswith("dropped_")
        }
        reasons = dict(count.reasons)
        emptied = reasons.pop("no text is left", 0)  # datatrove passes these on
        assert theirs.pop("empty", 0) == without_text
        named = {name: number for name, number in reasons.items() if name != "dropped"}
        assert named == theirs
        dropped, total = (int(step.stats[name].total) for name in ("dropped", "total"))
        assert (sum(reasons.values()), count.documents) == (
            dropped - without_text,
            total - without_text,
        )
        assert count.total > 0
        without_text = emptied


def test_the_documents_and_counts_are_the_same_for_any_number_of_shards(config):
    whole = opened(config)
    for count in (2, 3, 7):
        sharded = opened(replace(config, shards=count, deduplicate="global"))
        assert sorted(documents(sharded)) == sorted(documents(whole))
        assert sharded.sources[0].dropped == whole.sources[0].dropped
    sampler = whole.sources[0].dropped[-1]
    assert 0.5 < 1 - sampler.total / sampler.documents < 1
    expected = {text.encode() for text in filtered(config.sources[0])}
    assert set(documents(whole)) == expected


def test_the_store_is_the_same_whoever_builds_it(config, tmp_path):
    config = replace(config, shards=4)
    opened(config)
    expected = digests(config)
    on_datatrove = replace(config, cache_dir=str(tmp_path / "datatrove"), workers=2)
    corpus = opened(on_datatrove, executor=LocalExecutor())
    assert digests(on_datatrove) == expected
    assert corpus.sources[0].dropped[0].total > 0
    shared = replace(config, cache_dir=str(tmp_path / "shared"))
    for part in (slice(1, None, 2), slice(0, None, 2)):
        share_shards(shared, BytesConfig(), shards=part)
    opened(shared)
    assert digests(shared) == expected


def test_an_interrupted_build_continues(config, tmp_path, monkeypatch):
    config = replace(config, shards=5)
    whole = replace(config, cache_dir=str(tmp_path / "whole"))
    expected = opened(whole).sources[0].dropped
    fill, filled = shards.fill_shard, []

    def interrupted(*arguments):
        filled.append(arguments)
        if len(filled) == 3:
            raise KeyboardInterrupt
        fill(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "fill_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(config)
    assert opened(config).sources[0].dropped == expected
    assert digests(config) == digests(whole)


def test_what_decides_the_documents_is_part_of_the_key(config, monkeypatch):
    source = config.sources[0]
    digest = identify_filtered(source, None).digest
    assert identify_filtered(replace(source), None).digest == digest
    bare = replace(source, filters=())
    assert identify_filtered(bare, None) == bare.identify()
    others = [source.filters[:-1], source.filters[::-1], (*source.filters[:-1], SamplerFilter(0.8))]
    for filters in others:
        assert identify_filtered(replace(source, filters=filters), None).digest != digest
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version(name) + ".1")
    assert identify_filtered(source, None).digest != digest
    assert identify_filtered(bare, None) != bare.identify().digest


@pytest.mark.once
def test_stores_from_before_filters_are_those_of_sources_without_them(config):
    (request,) = request_of(replace(config, sources=(TextSource(("a.txt",)),)), BytesConfig(), ())[
        "data.sources"
    ]
    assert "filters" not in request
    (request,) = request_of(config, BytesConfig(), ())["data.sources"]
    assert len(request["filters"]) == len(FILTERS_HERE) + 1


@pytest.mark.parametrize("kind", list(FILTERS))
def test_the_fields_are_the_parameters_of_datatrove(kind):
    from datatrove.pipeline import filters

    config = FILTERS[kind](
        **{"regex": {"regex_exp": "a"}, "fasttext": {"model_url": "a"}}.get(kind, {})
    )
    cls = getattr(filters, config.library_class)
    assert cls.__name__ == type(config).__name__
    parameters = dict(inspect.signature(cls.__init__).parameters)
    without = {"self", "exclusion_writer"}
    assert set(config.settings) == set(parameters) - without
    for name, value in config.settings.items():
        default = parameters[name].default
        assert value == default or default is inspect.Parameter.empty or name == "seed", name


def test_a_sample_depends_on_texts_and_seed_alone():
    texts = [f"text {number}" for number in range(400)]

    def sample(seed: int, texts: list[str]) -> list[str]:
        apply = SamplerFilter(0.25, seed).open()
        return [text for text in texts if apply(RawDocument(text)) is None]

    kept = sample(0, texts)
    assert 60 < len(kept) < 140
    assert sorted(sample(0, texts[::-1])) == sorted(kept)
    assert sample(0, texts[100:]) == [text for text in kept if text in texts[100:]]
    assert sample(1, texts) != kept


def test_mistakes_are_named(config, folder, monkeypatch):
    (source,) = config.sources

    def refused(*filters, source=source):
        with pytest.raises(UserError) as error:
            opened(replace(config, sources=(replace(source, filters=filters),)))
        return str(error.value)

    assert "filter regex: regex_exp 'a(' is not a regular" in refused(RegexFilter("a("))
    assert "filter sampler: rate 2 is not in [0, 1]" in refused(SamplerFilter(2))
    message = refused(GopherQualityFilter(language="klingon"))
    assert "cannot split the language 'klingon'" in message
    everything = refused(RegexFilter(""))
    assert "its filters dropped all" in everything
    assert "(regex " in everything
    find = importlib.util.find_spec
    with monkeypatch.context() as without:
        absent = ("fasteners", "fasttext")
        lacks = lambda name, *_: None if name in absent else find(name)  # noqa: E731
        without.setattr(importlib.util, "find_spec", lacks)
        message = refused(LanguageFilter())
        assert message.startswith("filter language: needs fasteners and fasttext")
        assert "pip install fasteners fasttext-numpy2-wheel" in message
    if importlib.util.find_spec("tldextract") is not None:
        lines = TextSource((str(folder / "*.csv"),))
        assert "knows no URL" in refused(URLFilter(), source=lines)

    @dataclass(frozen=True)
    class Later(RegexFilter):
        flags: int = 0

    assert "has no parameter flags of RegexFilter; pip install" in refused(Later("a"))
    hidden = lambda name: None if name == "datatrove" else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert "pip install 'llmjax[datatrove]'" in refused(SamplerFilter())


def test_a_failure_of_a_filter_names_the_document():
    apply = GopherQualityFilter(min_doc_words=None, min_avg_word_length=None, language="").open()
    with pytest.raises(UserError, match=r"filter gopher_quality: fails on the document ' '"):
        apply(RawDocument(" "))
