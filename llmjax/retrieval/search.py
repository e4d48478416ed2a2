"""The command `search`: passages of an index that answer a question."""

from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, get_args

import numpy as np

from llmjax.errors import UserError
from llmjax.inference.embedder import Embedder, make_embedder, published_prompt
from llmjax.inference.language_model import LanguageModel, load
from llmjax.retrieval.fusion import reciprocal_rank_fusion
from llmjax.retrieval.index import open_store
from llmjax.retrieval.metadata import IndexMetadata, check_same_run, read_metadata, run_fingerprint
from llmjax.retrieval.store import Scored, Store
from llmjax.retrieval.terms import query_terms
from llmjax.run.config.options import keyword_options

Mode = Literal["hybrid", "lexical", "vector"]
CANDIDATES = 50
"""Passages of each ranking that are fused, at least."""
MAX_LIMIT = 1000
QUERY_PROMPTS = ("query",)
"""Names that published models give to their prompts for questions."""


@dataclass(frozen=True)
class SearchOptions:
    """Options of search."""

    limit: int = 5
    """Maximum passages to return."""
    mode: Mode = "hybrid"
    """How passages are ranked: lexical: by words (BM25), without a model; vector: by embeddings;
    hybrid: by both, fused."""
    store: str | None = None
    """Address of the PostgreSQL database that holds the index; none: INDEX is an SQLite file."""
    run: str | None = None
    """Folder of the embedding run, if it was moved; none: where it was when the index was made."""
    prompt: str | None = None
    """Name of a published prompt to prepend to the question; "": no prompt; none: the prompt called
    query if there is one, else the model's default."""
    min_similarity: float | None = None
    """Leave out passages whose cosine similarity to the question is lower, from -1 to 1; needs
    vectors."""


@dataclass(frozen=True)
class Hit:
    """A passage found.

    Attributes:
      number: its rank, from 1.
      document: path of its document.
      text: of the passage.
      heading, page, line, last_line: its place; see `Place`.
      similarity: cosine of its vector and the question's; None if no vector was compared.
      bm25: its BM25; None if it is not among the best by words.
    """

    number: int
    document: str
    text: str
    heading: str
    page: int | None
    line: int | None
    last_line: int | None
    similarity: float | None
    bm25: float | None

    @property
    def source(self) -> str:
        """Where it stands: file:line, or file page n."""
        if self.page is not None:
            return f"{self.document} page {self.page}"
        return self.document if self.line is None else f"{self.document}:{self.line}"

    def to_dict(self) -> dict[str, Any]:
        """As plain data, with its source."""
        return {**vars(self), "source": self.source}


class SearchIndex:
    """An open index, for many questions. Use it as a context manager, or close it.

    It may be used by one thread at a time.
    """

    def __init__(
        self,
        store: Store,
        metadata: IndexMetadata,
        embedder: Embedder | None,
    ):
        """
        Args:
          store: the database.
          metadata: that it holds.
          embedder: the run that made it; None to search by words alone.
        """
        self._store, self.metadata, self._embedder = store, metadata, embedder

    def __enter__(self) -> "SearchIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    def search(
        self,
        question: str,
        *,
        limit: int = 5,
        mode: Mode = "hybrid",
        min_similarity: float | None = None,
    ) -> list[Hit]:
        """Find passages; see `search`."""
        _check(question, limit, mode, min_similarity)
        depth = max(CANDIDATES, 2 * limit)
        lexical, nearest = list[Scored](), list[Scored]()
        if mode != "vector":
            lexical = self._store.lexical(query_terms(question), depth)
        vector = None
        if mode != "lexical":
            if self._embedder is None:
                raise UserError(f"mode {mode}", "needs the embedding run", "open the index with it")
            vector = self._embedder.embed([question])[0]
            nearest = self._store.nearest(vector, depth)
        ranked = reciprocal_rank_fusion(
            [[item.id for item in found] for found in (nearest, lexical)]
        )
        ids = [id for id, _ in ranked]
        similarity = {item.id: item.score for item in nearest}
        if min_similarity is not None and vector is not None:
            for item in self._store.passages([id for id in ids if id not in similarity]):
                similarity[item.id] = _cosine(item.vector, vector)
            ids = [id for id in ids if similarity[id] >= min_similarity]
        bm25 = {item.id: item.score for item in lexical}
        return [
            Hit(
                number,
                item.document,
                item.passage.text,
                *item.passage.place,
                similarity=similarity.get(item.id),
                bm25=bm25.get(item.id),
            )
            for number, item in enumerate(self._store.passages(ids[:limit]), 1)
        ]


def open_index(
    location: str | PathLike[str],
    *,
    store: str | None = None,
    run: str | PathLike[str] | LanguageModel | None = None,
    prompt: str | None = None,
    words_only: bool = False,
) -> SearchIndex:
    """Open an index for many questions.

    Args:
      location, store, prompt: as for `search`.
      run: the embedding run, its folder or loaded; None: from where it was.
      words_only: whether to open it without the run, for the mode "lexical".

    Raises:
      UserError: as `search`.
    """
    database = open_store(location, store)
    try:
        document = database.metadata()
        if document is None:
            raise UserError(
                database.name, "holds no index", "make one: llmjax index RUN FILES INDEX"
            )
        metadata = read_metadata(document, database.name)
        embedder = None
        if not words_only:
            embedder = _embedder(metadata, run, prompt, database.name)
    except BaseException:
        database.close()
        raise
    return SearchIndex(database, metadata, embedder)


@keyword_options()
def search(
    location: str | PathLike[str],
    question: str,
    options: SearchOptions,
) -> list[Hit]:
    """Find the passages of an index that answer a question.

    Passages are ranked by BM25 of their words and by cosine similarity of their embeddings; the two
    rankings are fused by reciprocal rank (Cormack et al. 2009).

    Args:
      location: of the index: a file, or with `store` a schema.
      question: in words.
      options: fields of SearchOptions, also as keywords.

    Returns:
      Hits, best first; none if nothing was found.

    Raises:
      UserError: there is no such index or run, the run is not the one that made the index, the
        index is damaged, or an option is out of range.
    """
    _check(question, options.limit, options.mode, options.min_similarity)
    words_only = options.mode == "lexical"
    with open_index(
        location,
        store=options.store,
        run=options.run,
        prompt=options.prompt,
        words_only=words_only,
    ) as opened:
        return opened.search(
            question,
            limit=options.limit,
            mode=options.mode,
            min_similarity=options.min_similarity,
        )


def _embedder(
    metadata: IndexMetadata,
    run: str | PathLike[str] | LanguageModel | None,
    prompt: str | None,
    name: str,
) -> Embedder:
    if not isinstance(run, LanguageModel):
        run = load(metadata.run if run is None else run, metadata.load_options())
    if prompt is None:
        prompt = published_prompt(run, *QUERY_PROMPTS)
    embedder = make_embedder(run, prompt=prompt)
    check_same_run(metadata, run_fingerprint(embedder), run.config.run_dir, name)
    return embedder


def _check(question: str, limit: int, mode: str, min_similarity: float | None) -> None:
    if not question.strip():
        raise UserError("the question", "is empty", 'write one: llmjax search INDEX "..."')
    if not 1 <= limit <= MAX_LIMIT:
        raise UserError(f"limit {limit}", f"is not from 1 to {MAX_LIMIT}")
    if mode not in get_args(Mode):
        raise UserError(f"mode {mode}", "is unknown", f"choose {', '.join(get_args(Mode))}")
    if min_similarity is not None and (mode == "lexical" or not -1 <= min_similarity <= 1):
        reason = "compares no vectors" if mode == "lexical" else "is from -1 to 1"
        raise UserError("min_similarity", f"{reason}", "choose mode hybrid or vector, and -1 to 1")


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other)) / lengths if lengths else 0.0
