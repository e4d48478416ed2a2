"""Training and validation sets are disjoint; every byte is counted."""

from dataclasses import replace

import numpy as np
import pytest

from llmjax.data.config import DataConfig
from llmjax.data.text.corpus import (
    prepare,
    train_tokenizer,
    validation_documents,
    validation_text,
)
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig, SentencePieceConfig, load_tokenizer
from llmjax.errors import UserError
from llmjax.storage.writing import cache_root

from .conftest import write_documents


def training_texts(corpus) -> list[str]:
    """The training documents, decoded from bytes."""
    texts = []
    for store in corpus.train:
        for begin, end in zip(store.offsets[:-1], store.offsets[1:], strict=True):
            assert store.tokens[end - 1] == corpus.eos_id
            texts.append(bytes(store.tokens[begin : end - 1].astype(np.uint8)).decode())
    return texts


def validation_texts(corpus) -> list[str]:
    return [bytes(d.tokens[:-1].astype(np.uint8)).decode() for d in validation_documents(corpus)]


def config_of(cache, *sources, **fields) -> DataConfig:
    fields = {"validation_fraction": 0.2, "cache_dir": cache, "workers": 1} | fields
    return DataConfig(tuple(sources), 2, 8, **fields)


def test_every_document_is_on_one_side(tmp_path, lines, cache):
    texts = write_documents(tmp_path / "lines.txt", 200)
    _, corpus = prepare(config_of(cache, lines), BytesConfig())
    train, validation = training_texts(corpus), validation_texts(corpus)
    assert sorted(train + validation) == sorted(texts)
    assert 20 < len(validation) < 60
    assert train == [text for text in texts if text in set(train)], "in their order"
    assert corpus.num_documents == len(train)
    assert corpus.num_bytes == sum(len(text.encode()) for text in train)
    assert corpus.num_tokens == corpus.num_bytes + len(train)


def test_validation_bytes_and_text_are_of_the_original(lines, cache):
    tokenizer, corpus = prepare(config_of(cache, lines), SentencePieceConfig(300))
    documents = list(validation_documents(corpus))
    text = validation_text(corpus)
    assert sum(document.bytes for document in documents) == len(text)
    assert b"".join(tokenizer.decode_bytes(document.tokens) for document in documents) == text
    assert all(document.tokens.dtype == np.int32 for document in documents)
    assert all(document.tokens[-1] == tokenizer.eos_id for document in documents)


def test_duplicates_are_dropped(tmp_path, cache):
    texts = write_documents(tmp_path / "a.txt", 60)
    (tmp_path / "b.txt").write_text((tmp_path / "a.txt").read_text() * 3)
    once = TextSource((str(tmp_path / "a.txt"),), split="line")
    thrice = TextSource((str(tmp_path / "b.txt"),), split="line")
    _, corpus = prepare(config_of(cache, thrice), BytesConfig())
    assert sorted(training_texts(corpus) + validation_texts(corpus)) == sorted(texts)
    _, both = prepare(config_of(cache, thrice, once), BytesConfig())
    assert validation_texts(both) == validation_texts(corpus), "nor twice over two sources"


@pytest.mark.parametrize("limit", [200, 1000])
def test_a_limit_on_the_validation_set_gives_the_rest_to_training(lines, cache, limit):
    free = prepare(config_of(cache, lines), BytesConfig())[1]
    _, corpus = prepare(config_of(cache, lines, validation_max_bytes=limit), BytesConfig())
    validation = validation_texts(corpus)
    assert 0 < len(validation_text(corpus)) <= limit
    assert set(validation) < set(validation_texts(free))
    assert len(training_texts(corpus)) + len(validation) == 200
    assert not set(validation) & set(training_texts(corpus))


def test_a_limit_that_one_source_meets_holds_for_the_others(tmp_path, cache):
    """The large source trains on documents that the small one alone would validate on."""
    small = write_documents(tmp_path / "small.txt", 40, seed=1)
    large = write_documents(tmp_path / "large.txt", 400, seed=2)
    (tmp_path / "large.txt").write_text("".join(f"{text}\n" for text in large + small))
    sources = [TextSource((f"{tmp_path}/{n}.txt",), split="line") for n in ("small", "large")]
    config = config_of(cache, *sources, validation_fraction=0.5, validation_max_bytes=3000)
    _, corpus = prepare(config, BytesConfig())
    assert corpus.sources[0].threshold > corpus.sources[1].threshold
    validation = validation_texts(corpus)
    assert validation
    assert not set(validation) & set(training_texts(corpus))
    assert len(validation) == len(set(validation))


def test_no_validation_set_where_none_is_wanted(lines, cache):
    _, corpus = prepare(config_of(cache, lines, validation_fraction=0.0), BytesConfig())
    assert list(validation_documents(corpus)) == []
    assert validation_text(corpus) == b""
    assert corpus.num_documents == 200


def test_the_tokenizer_is_trained_on_training_documents_only(tmp_path, lines, cache):
    """The tokenizer does not depend on validation documents."""
    config = config_of(cache, lines)
    texts = write_documents(tmp_path / "lines.txt", 200)
    validation = set(validation_texts(prepare(config, BytesConfig())[1]))
    first, _ = prepare(config, SentencePieceConfig(300))
    kept = [text for text in texts if text not in validation]
    (tmp_path / "lines.txt").write_text("".join(f"{text}\n" for text in kept))
    again = train_tokenizer(SentencePieceConfig(300), config, tmp_path / "again")
    assert again.fingerprint == first.fingerprint
    (tmp_path / "lines.txt").write_text("".join(f"{text}\n" for text in kept[:-1]))
    changed = train_tokenizer(SentencePieceConfig(300), config, tmp_path / "other")
    assert changed.fingerprint != first.fingerprint


def test_the_run_folder_keeps_its_tokenizer(tmp_path, lines, cache):
    folder = tmp_path / "run" / "tokenizer"
    config = config_of(cache, lines)
    first, _ = prepare(config, SentencePieceConfig(300), folder)
    assert load_tokenizer(folder).fingerprint == first.fingerprint
    again, corpus = prepare(config, SentencePieceConfig(290), folder)
    assert again.fingerprint == first.fingerprint
    assert corpus.train[0].tokens.max() < first.vocab_size


ARRAYS = ("tokens", "offsets", "byte_offsets", "hashes")


def test_processes_do_not_change_the_corpus(tmp_path, monkeypatch):
    from llmjax.data.text import cache as cache_module

    monkeypatch.setattr(cache_module, "BATCH_BYTES", 500)
    write_documents(tmp_path / "lines.txt", 200)
    source = TextSource((str(tmp_path / "lines.txt"),), split="line")
    contents = []
    for workers in (1, 2):
        config = config_of(str(tmp_path / f"cache{workers}"), source, workers=workers)
        _, corpus = prepare(config, SentencePieceConfig(300))
        arrays = [getattr(corpus.train[0], name) for name in ARRAYS]
        contents.append((corpus.fingerprint, *(array.tolist() for array in arrays)))
    assert contents[0] == contents[1]


def refused(config, match, tokenizer=BytesConfig()):  # noqa: B008
    with pytest.raises(UserError, match=match):
        prepare(config, tokenizer)


def test_corpora_that_cannot_be_trained_on(tmp_path, cache):
    path = tmp_path / "text.txt"
    source = TextSource((str(path),), split="line")
    path.write_text("")
    for tokenizer in (BytesConfig(), SentencePieceConfig()):
        refused(config_of(cache, source), r"text\.txt\): holds no text", tokenizer)
    path.write_text("only one line of text here\n")
    refused(
        config_of(cache, source, validation_fraction=1e-9), "validation set is empty: none of 1"
    )
    refused(
        config_of(cache, source, validation_fraction=1 - 1e-9),
        "all 1 documents are in the validation set",
    )
    config = replace(config_of(cache, source, validation_fraction=0.0), batch_size=4, length=8)
    refused(config, "its 27 training tokens are fewer than a batch of 4 rows of 8")


def test_a_small_text_gets_a_small_vocabulary(tmp_path, cache, caplog):
    path = tmp_path / "text.txt"
    path.write_text("word " * 100)
    config = config_of(cache, TextSource((str(path),)), validation_fraction=0.0)
    tokenizer, _ = prepare(config, SentencePieceConfig(5000))
    assert 260 < tokenizer.vocab_size < 300
    assert f"the training text supports {tokenizer.vocab_size} entries" in caplog.text


def test_where_no_document_falls_in_the_fraction_one_is_held_out(tmp_path, cache, caplog):
    texts = write_documents(tmp_path / "lines.txt", 12)
    source = TextSource((str(tmp_path / "lines.txt"),), split="line")
    config = config_of(cache, source, validation_fraction=1e-9)
    folder = tmp_path / "tokenizer"
    tokenizer, corpus = prepare(config, SentencePieceConfig(300), folder)
    assert "none of 12 documents falls in data.validation_fraction 1e-09" in caplog.text
    held_out = validation_text(corpus).decode()
    assert held_out in texts
    assert corpus.num_documents == 11
    (tmp_path / "others.txt").write_text("\n".join(text for text in texts if text != held_out))
    others = TextSource((str(tmp_path / "others.txt"),), split="line")
    without = replace(config_of(cache, others), validation_fraction=0.0)
    same, _ = prepare(without, SentencePieceConfig(300))
    assert tokenizer.fingerprint == same.fingerprint, "trained without the document"
    resumed, again = prepare(config, SentencePieceConfig(300), folder)
    assert (resumed.fingerprint, again.fingerprint) == (tokenizer.fingerprint, corpus.fingerprint)


def test_a_tokenizer_without_training_text_says_why(tmp_path):
    (tmp_path / "one.txt").write_text("the only document")
    source = TextSource((str(tmp_path / "one.txt"),))
    config = replace(config_of(str(tmp_path / "cache"), source), validation_fraction=0.999999)
    match = "no text is left to train on: all documents are in the validation set"
    refused(config, match, SentencePieceConfig(300))


def test_impossible_values_are_refused_together():
    config = DataConfig((), 0, -1, validation_fraction=1.0, workers=-1, prefetch=0)
    with pytest.raises(UserError) as caught:
        prepare(config, BytesConfig())
    for field in ("sources", "batch_size", "length", "validation_fraction", "workers", "prefetch"):
        assert f"data.{field}" in str(caught.value)


def test_a_path_in_place_of_a_tuple_is_refused():
    with pytest.raises(UserError, match=r"paths 'a\.txt' is a string, not a tuple"):
        prepare(DataConfig((TextSource("a.txt"),)), BytesConfig())


def test_where_caches_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("LLMJAX_CACHE", raising=False)
    assert str(cache_root()) == "/xdg/llmjax"
    monkeypatch.setenv("LLMJAX_CACHE", "/own")
    assert str(cache_root()) == "/own"
    assert cache_root(str(tmp_path)) == tmp_path
