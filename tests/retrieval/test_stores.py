"""Each store ranks as the formulas say, changes in transactions, and notices damage."""

import math
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.retrieval.document import Place
from llmjax.retrieval.index import open_store
from llmjax.retrieval.passages import Passage
from llmjax.retrieval.store import K1, B
from llmjax.retrieval.terms import terms

WIDTH = 8
META = {"format": 1, "run": "runs/x"}


def drawn(generator, count, heading=""):
    """Random passages with their vectors."""
    ranks = np.minimum(generator.zipf(1.3, (count, 12)), 40)
    texts = [" ".join(f"w{rank}" for rank in row[: 3 + row[0] % 9]) for row in ranks]
    passages = [Passage(text, Place(heading, 3, None, None)) for text in texts]
    return passages, generator.standard_normal((count, WIDTH)).astype(np.float32)


def fill(store, *documents):
    """Adds documents to a new store."""
    with store.transaction() as writer:
        writer.create(WIDTH)
        writer.write_metadata(META)
        for name, passages, vectors in documents:
            writer.add_passages(writer.add_document(name, f"digest {name}"), passages, vectors)


def bm25(passages, query):
    """By the formula; a term's weight is at least 1e-6."""
    counts = [Counter(terms(passage.with_heading)) for passage in passages]
    mean = sum(count.total() for count in counts) / len(counts)
    scores = Counter()
    for term in query:
        having = sum(term in count for count in counts)
        idf = max(math.log((len(counts) - having + 0.5) / (having + 0.5)), 1e-6)
        for number, count in enumerate(counts):
            if term in count:
                norm = K1 * (1 - B + B * count.total() / mean)
                scores[number] += idf * count[term] * (K1 + 1) / (count[term] + norm)
    return scores


def test_words_are_ranked_by_bm25(store, generator):
    passages, vectors = drawn(generator, 60, "A heading of w7")
    fill(store, ("a", passages, vectors))
    for query in (["w1"], ["w2", "w9", "w30"], ["w7", "missing"], ["missing"], []):
        expected = bm25(passages, query)
        found = store.lexical(query, 60)
        assert len(found) == len(expected)
        scores = [score for _, score in found]
        np.testing.assert_allclose(scores, sorted(expected.values(), reverse=True), rtol=1e-6)
        best = store.lexical(query, 3)
        assert best == found[:3]
        for item, stored in zip(best, store.passages([item.id for item in best]), strict=True):
            number = [p.text for p in passages].index(stored.passage.text)
            assert math.isclose(item.score, expected[number], rel_tol=1e-6)


def test_vectors_are_ranked_by_cosine(store, generator):
    passages, vectors = drawn(generator, 60)
    passages = [p._replace(text=f"{number} {p.text}") for number, p in enumerate(passages)]
    fill(store, ("a", passages, vectors))
    question = generator.standard_normal(WIDTH).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(question)
    cosines = vectors @ question / lengths
    found = store.nearest(question, 10)
    np.testing.assert_allclose(
        [item.score for item in found], np.sort(cosines)[::-1][:10], atol=1e-5
    )
    stored = store.passages([item.id for item in found])
    order = [int(item.passage.text.split()[0]) for item in stored]
    assert order == np.argsort(-cosines)[:10].tolist()
    np.testing.assert_array_equal(stored[0].vector, vectors[order[0]])
    assert stored[0].document == "a"
    assert stored[0].passage == passages[order[0]]


def test_removed_documents_leave_nothing(store, generator, place):
    kept, gone = drawn(generator, 20), drawn(generator, 30)
    fill(store, ("kept", *kept), ("gone", *gone))
    with store.transaction() as writer:
        writer.remove("gone")
        writer.remove("never there")
    with open_store(*place) as again:
        assert again.metadata() == META
        assert again.digests() == {"kept": "digest kept"}
        assert again.size() == (1, 20)
        expected = bm25(kept[0], ["w1", "w3"])
        scores = [item.score for item in again.lexical(["w1", "w3"], 100)]
        np.testing.assert_allclose(scores, sorted(expected.values(), reverse=True), rtol=1e-6)
        assert len(again.nearest(kept[1][0], 100)) == 20


def test_a_failed_transaction_changes_nothing(store, generator):
    passages, vectors = drawn(generator, 5)
    fill(store, ("a", passages, vectors))

    def fail():
        with store.transaction() as writer:
            writer.remove("a")
            writer.add_passages(writer.add_document("b", ""), *drawn(generator, 5))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.digests() == {"a": "digest a"}
    assert len(store.lexical(["w1"], 10)) == len(bm25(passages, ["w1"]))


def test_others_read_meanwhile_but_do_not_write(store, generator, place):
    fill(store, ("a", *drawn(generator, 5)))
    with store.transaction() as writer, open_store(*place) as other:
        writer.add_passages(writer.add_document("b", ""), *drawn(generator, 5))
        assert other.size() == (1, 5)
        with pytest.raises(UserError, match="is being written"), other.transaction():
            pass
    assert store.size() == (2, 10)


KILLED = """
import os, signal, sys
import numpy as np
from llmjax.retrieval.document import Place
from llmjax.retrieval.index import open_store
from llmjax.retrieval.passages import Passage

location, store, width = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
with open_store(location, store) as opened, opened.transaction() as writer:
    writer.remove("a")
    passages = [Passage(f"new {number} " * 50, Place()) for number in range(3000)]
    vectors = np.ones((3000, width), np.float32)
    writer.add_passages(writer.add_document("b", ""), passages, vectors)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_index(store, generator, place):
    fill(store, ("a", *drawn(generator, 5)))
    store.close()
    words = [sys.executable, "-c", KILLED, place[0], place[1] or "", str(WIDTH)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    with open_store(*place) as again:
        assert again.digests() == {"a": "digest a"}
        assert again.lexical(["new"], 5) == []
        assert len(again.nearest(np.ones(WIDTH, np.float32), 10)) == 5
        with again.transaction() as writer:
            writer.remove("a")
        assert again.size() == (0, 0)


def test_damage_is_noticed(store, generator, place):
    fill(store, ("a", *drawn(generator, 5)))
    change = "update passages set text = 'another' where id = 2"
    damage = "update metadata set value = replace(value, 'runs/x', 'runs/y')"
    if place[1] is None:
        import apsw

        with apsw.Connection(place[0]) as connection:
            connection.execute(f"{change}; {damage}")
    else:
        import psycopg

        with psycopg.connect(place[1]) as connection:
            connection.execute(f"set search_path to {place[0]}; {change}; {damage}")
    assert len(store.passages([1, 3])) == 2
    with pytest.raises(UserError, match="a passage of a fails its checksum"):
        store.passages([1, 2])
    with pytest.raises(UserError, match="passages are missing"):
        store.passages([1, 99])
    with pytest.raises(UserError, match="checksum differs"):
        store.metadata()


def test_an_index_that_is_not_there(store):
    assert store.metadata() is None
    assert store.digests() == {}
    assert store.size() == (0, 0)


def test_other_files_are_refused(tmp_path):
    import sqlite3

    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("create table x (y)")
    text = tmp_path / "text.db"
    text.write_text("this is no database at all, though it is long enough" * 100)
    for path, message in (
        (other, "is not an index of llmjax"),
        (text, "is no SQLite file"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "index.db", "is in a folder that does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            open_store(path, None)
    assert text.read_text().startswith("this is")


def test_a_new_file_that_fails_is_not_left(tmp_path):
    store = open_store(tmp_path / "index.db", None)

    def fail():
        with store.transaction() as writer:
            writer.create(WIDTH)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_addresses_are_checked(postgresql):
    for address in ("mysql://host/x", "nowhere", "sqlite://x"):
        with pytest.raises(UserError, match="--store"):
            open_store("name", address)
    with pytest.raises(UserError, match="is no name for an index"):
        open_store("x; drop table y", postgresql)
    with pytest.raises(UserError, match="PostgreSQL refuses") as error:
        open_store("name", "postgresql://someone:secret@127.0.0.1:1/none")
    assert "secret" not in str(error.value)


def test_a_graph_is_for_postgresql(tmp_path, postgresql, generator):
    passages, vectors = drawn(generator, 50)
    with open_store("graph", postgresql) as store:
        fill(store, ("a", passages, vectors))
        exact = store.nearest(vectors[7], 5)
        with store.transaction() as writer:
            writer.approximate()
            writer.approximate()
        assert store.nearest(vectors[7], 1)[0].id == exact[0].id
    with open_store(tmp_path / "index.db", None) as store:
        fill(store, ("a", passages, vectors))
        with pytest.raises(UserError, match="is for PostgreSQL"), store.transaction() as writer:
            writer.approximate()
