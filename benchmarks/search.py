"""Search: does it find the right paragraph, how fast is it, and how large does an index get.

    llmjax import sample:minilm runs/minilm
    python -m benchmarks.search quality runs/minilm --data xquad.en.json [--store postgresql://...]
    python -m benchmarks.search size --passages 1000000 [--store postgresql://...] [--approximate]

`quality` indexes each paragraph of FILE (SQuAD format) as a document and asks all its questions:
recall@k is the share of questions whose paragraph is among the first k documents. Beside it, the
paragraphs ranked by scikit-learn's TF-IDF, and by sentence-transformers' vectors of the same model
where that is installed; these two embed a paragraph as one text, cut at the model's length.

`size` fills an index with synthetic passages: 80 words drawn by Zipf's law, random unit vectors.
Questions have eight of these words; times are medians of 20, after one to warm up.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

from llmjax.inference.language_model import load
from llmjax.retrieval.document import Place
from llmjax.retrieval.index import index, open_store
from llmjax.retrieval.passages import Passage
from llmjax.retrieval.search import Mode, open_index
from llmjax.retrieval.store import Store

KS = (1, 5)
WORDS, PASSAGE_WORDS, WIDTH, QUESTION_WORDS = 100_000, 80, 384, 8
GROUP, ASKED = 5000, 20


def read_questions(path: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Returns the paragraphs, and the questions with the number of their paragraph."""
    paragraphs, questions = list[str](), list[tuple[str, int]]()
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            questions += [(asked["question"], len(paragraphs)) for asked in paragraph["qas"]]
            paragraphs.append(paragraph["context"])
    return paragraphs, questions


def recall(rankings: Sequence[Sequence[int]], right: Sequence[int]) -> dict[str, float]:
    """The share of questions whose paragraph is among the first k, for each k."""
    return {
        f"recall@{k}": float(
            np.mean([r in found[:k] for found, r in zip(rankings, right, strict=True)])
        )
        for k in KS
    }


def rank_tf_idf(paragraphs: list[str], questions: list[str]) -> list[list[int]]:
    """Paragraphs by scikit-learn's TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer()
    documents = vectorizer.fit_transform(paragraphs)
    scores = (vectorizer.transform(questions) @ documents.T).toarray()
    return np.argsort(-scores, axis=1, kind="stable").tolist()


def rank_sentence_transformers(
    paragraphs: list[str], questions: list[str]
) -> tuple[list[list[int]], float]:
    """Paragraphs by sentence-transformers, and the seconds to embed them."""
    from sentence_transformers import SentenceTransformer

    from llmjax.convert.sources import sample_path

    model = SentenceTransformer(str(sample_path("minilm")), device="cpu")
    model.encode(paragraphs[:32])
    began = time.perf_counter()
    documents = model.encode(paragraphs, normalize_embeddings=True)
    seconds = time.perf_counter() - began
    scores = model.encode(questions, normalize_embeddings=True) @ documents.T
    return np.argsort(-scores, axis=1, kind="stable").tolist(), seconds


def quality(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Recall of each way to search, and the time to index."""
    paragraphs, asked = read_questions(args.data)
    questions, right = [question for question, _ in asked], [number for _, number in asked]
    lm = load(args.run)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "paragraphs")
        files.mkdir()
        for number, text in enumerate(paragraphs):
            (files / f"{number}.txt").write_text(text, encoding="utf-8")
        location = "benchmark_quality" if args.store else str(Path(folder, "index.db"))
        index(lm, files, Path(folder, "warm.db"))  # compiles
        began = time.perf_counter()
        result = index(lm, files, location, store=args.store)
        seconds = time.perf_counter() - began
        yield {"ours": "index", **result.to_dict(), "seconds": seconds}
        with open_index(location, store=args.store, run=lm) as opened:
            opened.search(questions[0])
            for mode in get_args(Mode):
                began = time.perf_counter()
                hits = [opened.search(question, limit=20, mode=mode) for question in questions]
                seconds = (time.perf_counter() - began) / len(questions)
                rankings = [
                    list(dict.fromkeys(int(Path(hit.document).stem) for hit in found))
                    for found in hits
                ]
                yield {"ours": mode, **recall(rankings, right), "ms_per_question": seconds * 1e3}
    yield {"theirs": "TF-IDF", **recall(rank_tf_idf(paragraphs, questions), right)}
    if importlib.util.find_spec("sentence_transformers"):
        rankings, seconds = rank_sentence_transformers(paragraphs, questions)
        yield {"theirs": "sentence-transformers", **recall(rankings, right), "seconds": seconds}


def synthetic(count: int, seed: int = 0) -> Iterator[tuple[list[Passage], np.ndarray]]:
    """Groups of passages with their vectors."""
    generator = np.random.default_rng(seed)
    words = np.array([f"w{number}" for number in range(WORDS)])
    shares = np.cumsum(1 / np.arange(1, WORDS + 1))
    for first in range(0, count, GROUP):
        size = min(GROUP, count - first)
        points = generator.random((size, PASSAGE_WORDS)) * shares[-1]
        drawn = np.minimum(np.searchsorted(shares, points), WORDS - 1)
        vectors = generator.standard_normal((size, WIDTH), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield [Passage(" ".join(row), Place()) for row in words[drawn]], vectors


def timed(ask: Callable[[int], object]) -> float:
    """Median milliseconds of some calls."""
    ask(0)
    seconds = []
    for number in range(1, ASKED + 1):
        began = time.perf_counter()
        ask(number)
        seconds.append(time.perf_counter() - began)
    return median(seconds) * 1e3


def size(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time to write, bytes, and time of queries."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "index.db")
        with open_store("benchmark_size" if args.store else path, args.store) as store:
            began = time.perf_counter()
            with store.transaction() as writer:
                writer.create(WIDTH)
                document = writer.add_document("synthetic", "")
                for passages, vectors in synthetic(args.passages):
                    writer.add_passages(document, passages, vectors)
                written = time.perf_counter() - began
                if args.approximate:
                    writer.approximate()
            built = time.perf_counter() - began - written
            yield {"passages": args.passages, "seconds": written, "graph_seconds": built}
            if not args.store:
                yield {"bytes": os.path.getsize(path)}
            yield queries(store)


def queries(store: Store) -> dict[str, Any]:
    """Times of the parts of a search, in milliseconds."""
    asked = list(synthetic(ASKED + 1, seed=1))
    vectors = np.concatenate([vectors for _, vectors in asked])
    texts = [passage.text for passages, _ in asked for passage in passages]
    words = [list(dict.fromkeys(text.split()))[:QUESTION_WORDS] for text in texts]
    rare = [sorted(row, key=lambda word: int(word[1:]))[-3:] for row in words]
    return {
        "lexical_ms": timed(lambda number: store.lexical(words[number], 50)),
        "lexical_rare_words_ms": timed(lambda number: store.lexical(rare[number], 50)),
        "vector_ms": timed(lambda number: store.nearest(vectors[number], 50)),
        "passages_ms": timed(lambda number: store.passages(range(number + 1, number + 6))),
    }


def main(arguments: list[str]) -> None:
    """Prints a JSON object per measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("quality")
    command.add_argument("run")
    command.add_argument("--data", required=True, type=Path)
    command.set_defaults(measure=quality)
    other = commands.add_parser("size")
    other.add_argument("--passages", type=int, default=1_000_000)
    other.add_argument("--approximate", action="store_true")
    other.set_defaults(measure=size)
    for each in (command, other):
        each.add_argument("--store")
    args = parser.parse_args(arguments)
    for result in args.measure(args):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
