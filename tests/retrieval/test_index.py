"""The commands index and search: incremental, of one run, with answers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.inference.chat import ChatOptions
from llmjax.inference.embed import embed
from llmjax.inference.language_model import load
from llmjax.retrieval import index as indexing
from llmjax.retrieval.answer import NOTHING_FOUND, answer, message
from llmjax.retrieval.index import index, open_store
from llmjax.retrieval.search import open_index, search
from task_runs import DECODER, ENCODER, begun

TEXTS = {
    "cats.txt": "Cats purr when they are content.\n\nThey sleep most of the day.",
    "trains.md": "# Trains\n\nThe express to Basel leaves at noon.\n\n## Tickets\n\nBuy early.",
    "tea.html": "<h1>Tea</h1><p>Green tea is steeped for two minutes.",
}


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load(begun(tmp_path_factory.mktemp("models") / "encoder", ENCODER))


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return folder


def found(location, question, lm, **options):
    with open_index(location, run=lm) as opened:
        return opened.search(question, **options)


def test_only_what_changed_is_embedded(lm, docs, tmp_path, monkeypatch):
    location, embedded = tmp_path / "index.db", []
    read = indexing.read_document
    monkeypatch.setattr(
        indexing, "read_document", lambda path: embedded.append(Path(path).name) or read(path)
    )
    result = index(lm, docs, location)
    assert (result.documents, result.added, result.unchanged) == (3, 3, 0)
    assert sorted(embedded) == sorted(TEXTS)
    embedded.clear()
    assert index(lm, docs, location).unchanged == 3
    assert embedded == []
    (docs / "cats.txt").write_text("Dogs bark.")
    (docs / "tea.html").unlink()
    (docs / "new.txt").write_text("Something new.")
    result = index(lm, [docs], location)
    counts = (result.documents, result.added, result.changed, result.removed, result.unchanged)
    assert counts == (3, 1, 1, 1, 1)
    assert sorted(embedded) == ["cats.txt", "new.txt"]
    again = tmp_path / "again.db"
    index(lm, docs, again)
    for question in ("dogs bark", "something", "express tickets", "purr"):
        hits, expected = (found(where, question, lm) for where in (location, again))
        assert [(hit.document, hit.text) for hit in hits] == [
            (hit.document, hit.text) for hit in expected
        ]
    other = tmp_path / "other.txt"
    other.write_text("Elsewhere.")
    assert index(lm, other, location).documents == 4
    other.unlink()
    assert index(lm, docs, location).documents == 4
    assert index(lm, other, location).removed == 1
    with pytest.raises(UserError, match=r"other\.txt: does not exist"):
        index(lm, other, location)


def test_vectors_are_those_of_embed_and_scores_are_told(lm, docs, place):
    location, store = place
    index(lm, docs, location, store=store)
    with open_index(location, store=store, run=lm) as opened:
        hits = opened.search("express to Basel", limit=10)
    assert hits[0].text == "The express to Basel leaves at noon."
    assert (hits[0].heading, hits[0].line) == ("Trains", 3)
    assert hits[0].source == f"{docs / 'trains.md'}:3"
    assert [hit.number for hit in hits] == list(range(1, len(hits) + 1))
    texts = [f"{hit.heading}\n{hit.text}" if hit.heading else hit.text for hit in hits]
    vectors = embed(lm, ["express to Basel", *texts])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = [hit.similarity for hit in hits]
    np.testing.assert_allclose(similarity, vectors[1:] @ vectors[0], atol=1e-4)


def test_modes(lm, docs, tmp_path):
    location = tmp_path / "index.db"
    index(lm, docs, location)
    with open_index(location, words_only=True) as opened:
        (hit,) = opened.search("purr", mode="lexical")
        assert (hit.similarity, hit.bm25 > 0) == (None, True)
        assert opened.search("nothing found", mode="lexical", limit=1) == []
        with pytest.raises(UserError, match="needs the embedding run"):
            opened.search("purr")
    hits = found(location, "purr", lm, mode="vector", limit=20)
    scores = [hit.similarity for hit in hits]
    assert scores == sorted(scores, reverse=True)
    middle = scores[1]
    hits = found(location, "purr", lm, limit=20, min_similarity=middle)
    assert {hit.similarity >= middle for hit in hits} == {True}
    assert found(location, "purr", lm, limit=1, min_similarity=1.0) == []


def test_another_run_is_refused_by_name(lm, docs, tmp_path):
    location = tmp_path / "index.db"
    index(lm, docs, location)
    other = begun(tmp_path / "other", ENCODER, seed=1)
    message = r"index\.db: was made with .*encoder step \d+ \(fingerprint \w{8}\), and the vect"
    with pytest.raises(UserError, match=f"{message}ors of .*other"):
        index(other, docs, location)
    with pytest.raises(UserError, match=f"{message}ors of .*other"):
        search(location, "purr", run=str(other))
    assert search(location, "purr", mode="lexical")[0].document.endswith("cats.txt")
    assert search(location, "purr") == found(location, "purr", lm)


def test_mistakes_leave_the_index_as_it_was(lm, docs, tmp_path):
    location = tmp_path / "index.db"
    (docs / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"bad\.txt: is not UTF-8"):
        index(lm, docs, location)
    assert not location.exists()
    result = index(lm, docs, location, skip_unreadable=True)
    assert (result.documents, len(result.skipped)) == (3, 1)
    with open_store(location, None) as store:
        before = store.digests()
    (docs / "cats.txt").write_text("changed")
    with pytest.raises(UserError, match=r"bad\.txt"):
        index(lm, docs, location)
    with open_store(location, None) as store:
        assert store.digests() == before
    with pytest.raises(UserError, match="passage_tokens 1000: is not from 1 to 6"):
        index(lm, docs, location, passage_tokens=1000)
    for options, reason in (
        ({"limit": 0}, "limit 0"),
        ({"mode": "magic"}, "mode magic: is unknown"),
        ({"min_similarity": 2.0}, "min_similarity"),
        ({"min_similarity": 0.5, "mode": "lexical"}, "compares no vectors"),
    ):
        with pytest.raises(UserError, match=reason):
            search(location, "purr", **options)
    with pytest.raises(UserError, match="the question: is empty"):
        search(location, " ")
    with pytest.raises(UserError, match="holds no index"):
        search(tmp_path / "none.db", "purr")
    assert not (tmp_path / "none.db").exists()


def test_answers_are_from_the_passages(lm, docs, tmp_path):
    location = tmp_path / "index.db"
    index(lm, docs, location)
    hits = found(location, "express", lm, limit=3)
    asked = message("When?", hits)
    assert asked.startswith(f"[1] {hits[0].heading}: {hits[0].text}" if hits[0].heading else "[1]")
    assert asked.endswith("Question: When?")
    assert "".join(answer("no/such/run", "When?", [])) == NOTHING_FOUND
    chat_run = begun(tmp_path / "decoder", replace(DECODER, max_length=1024))
    options = {"temperature": 0.0, "max_new_tokens": 5}
    text = "".join(answer(chat_run, "When?", hits, ChatOptions(**options)))
    assert isinstance(text, str)
    with pytest.raises(UserError, match="is longer than the model's context"):
        list(answer(begun(tmp_path / "short", DECODER), "When?", hits, ChatOptions(**options)))


def test_settings_index_again(lm, docs, tmp_path):
    location = tmp_path / "index.db"
    index(lm, docs, location)
    result = index(lm, docs, location, passage_tokens=20)
    assert result.changed == 3
    with open_store(location, None) as store:
        stored = json.dumps(dict(store.metadata()))
    assert "encoder" in stored
