"""The command `index`: documents into an index for `search`."""

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any, TypeAlias

from llmjax.errors import UserError
from llmjax.inference.embedder import Embedder, make_embedder, published_prompt
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.retrieval.files import Files, digest_of, find_files, read_document
from llmjax.retrieval.metadata import IndexMetadata, check_same_run, describe, read_metadata
from llmjax.retrieval.passages import Passage, passages
from llmjax.retrieval.store import STORES, Store, StoreWriter
from llmjax.run.config.options import keyword_options

log = logging.getLogger(__name__)

GROUP = 512
"""Passages embedded and written together."""
PASSAGE_PROMPTS = ("document", "passage")
"""Names that published models give to their prompts for passages."""

Progress: TypeAlias = Callable[[int, int, int], None]
"""Called as progress(documents read, documents to read, passages written)."""


@dataclass(frozen=True)
class IndexOptions(LoadOptions):
    """Options of index."""

    store: str | None = None
    """Address of a PostgreSQL database with pgvector, postgresql://USER@HOST/DATABASE, of which
    INDEX is then a schema; none: INDEX is an SQLite file."""
    passage_tokens: int | None = None
    """Maximum tokens of a passage; none: as many as the model embeds, at most 512."""
    prompt: str | None = None
    """Name of a published prompt to prepend to each passage; "": no prompt; none: the prompt called
    document or passage if there is one, else the model's default."""
    skip_unreadable: bool = False
    """Leave out documents that cannot be read, with a warning, instead of stopping."""
    approximate: bool = False
    """With PostgreSQL, search vectors by an HNSW graph, which is faster from some 100,000 passages
    and may miss some."""
    batch_size: int = 32
    """Passages per batch of the model."""


@dataclass(frozen=True)
class IndexResult:
    """What was done.

    Attributes:
      documents, passages: in the index.
      added, changed, removed, unchanged: numbers of documents.
      skipped: why documents were left out, a line each.
    """

    documents: int
    passages: int
    added: int
    changed: int
    removed: int
    unchanged: int
    skipped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def __str__(self) -> str:
        counts = f"{self.documents:,} documents, {self.passages:,} passages"
        names = ("added", "changed", "removed", "unchanged")
        return f"{counts} ({', '.join(f'{getattr(self, name):,} {name}' for name in names)})"


def no_progress(done: int, total: int, passages: int) -> None:
    """Shows nothing."""


@keyword_options()
def index(
    run: str | PathLike[str] | LanguageModel,
    files: str | PathLike[str] | Sequence[str | PathLike[str]],
    location: str | PathLike[str],
    options: IndexOptions,
    *,
    progress: Progress = no_progress,
) -> IndexResult:
    """Index documents: their passages, words and embeddings.

    Only new and changed files are read and embedded. A file that is no more leaves the index if it,
    or a folder above it, is named; other documents of the index stay. All changes are made in one
    transaction: if the process dies, the index is as before.

    Args:
      run: an embedding run: a run folder, or a loaded model.
      files: text, Markdown, HTML and PDF files, and folders of them.
      location: of the index: a file, or with `store` a schema. It is created if missing.
      options: fields of IndexOptions, also as keywords.
      progress: called after each document.

    Raises:
      UserError: no such run or file, a document cannot be read, the index is of another run or
        being written by another process, or a library of the extra `search` is not installed.
    """
    names = [files] if isinstance(files, str | PathLike) else list(files)
    found = find_files(names)
    with open_store(location, options.store) as store:
        lm = loaded(run, options)
        prompt = options.prompt
        if prompt is None:
            prompt = published_prompt(lm, *PASSAGE_PROMPTS)
        embedder = make_embedder(lm, prompt=prompt, batch_size=options.batch_size)
        metadata = describe(embedder, os.path.abspath(lm.config.run_dir), prompt, options)
        limit = _passage_tokens(options, embedder)
        with store.transaction() as writer:
            stored = store.metadata()
            if stored is None:
                writer.create(metadata.width)
                writer.write_metadata(metadata.to_dict())
            else:
                _check(read_metadata(stored, store.name), metadata, store.name)
            changes = _Indexing(embedder, limit, writer, options.skip_unreadable, progress)
            counts = changes.update(found, store.digests(), f"{limit} {prompt}")
            if options.approximate:
                writer.approximate()
        return IndexResult(*store.size(), **counts, skipped=tuple(changes.skipped))


def open_store(location: str | PathLike[str], store: str | None) -> Store:
    """Open the database of an index, which may be new.

    Raises:
      UserError: it cannot be opened, or the address is no store's.
    """
    scheme = "sqlite" if store is None else store.partition("://")[0]
    scheme = "postgresql" if scheme == "postgres" else scheme
    if scheme == "sqlite" and store is not None:
        raise UserError("--store", "is for PostgreSQL", "leave it out for an SQLite file")
    if scheme not in STORES:
        fix = "write postgresql://USER@HOST/DATABASE"
        raise UserError("--store", "is not the address of a database", fix)
    return STORES[scheme](os.fspath(location), store)  # type: ignore[call-arg]


def _passage_tokens(options: IndexOptions, embedder: Embedder) -> int:
    """Tokens of a passage.

    Raises:
      UserError: there are more than the model embeds.
    """
    most = embedder.max_tokens
    if options.passage_tokens is None:
        return min(most, 512)
    if not 1 <= options.passage_tokens <= most:
        reason = f"is not from 1 to {most}, the tokens that the model embeds"
        raise UserError(f"passage_tokens {options.passage_tokens}", reason)
    return options.passage_tokens


def _check(stored: IndexMetadata, metadata: IndexMetadata, name: str) -> None:
    check_same_run(stored, metadata.fingerprint, metadata.run, name)
    if stored.prompt != metadata.prompt:
        reason = f"embeds passages with prompt {stored.prompt!r}, not {metadata.prompt!r}"
        raise UserError(name, reason, "give the same --prompt, or index into a new one")


@dataclass
class _Indexing:
    """One update of an index, inside its transaction."""

    embedder: Embedder
    limit: int
    writer: StoreWriter
    skips: bool
    progress: Progress
    skipped: list[str] = field(default_factory=list)
    written: int = 0

    def update(self, files: Files, known: dict[str, str], settings: str) -> dict[str, int]:
        """Bring the index to the state of the files; `known` has its digests by path."""
        if missing := [path for path in files.missing if path not in known]:
            raise UserError(missing[0], "does not exist", "check the path")
        gone = files.gone(known)
        for path in gone:
            self.writer.remove(path)
        changed = dict[str, str]()
        for path in files.found:
            with self._skipping(path):
                digest = digest_of(path, settings)
                if known.get(path) != digest:
                    changed[path] = digest
        self._write(changed)
        new = sum(path not in known for path in changed)
        done = {"added": new, "changed": len(changed) - new, "removed": len(gone)}
        return done | {"unchanged": len(files.found) - len(changed) - len(self.skipped)}

    def _write(self, changed: dict[str, str]) -> None:
        """Replace these documents, given with their digests; those skipped are dropped from it."""
        dropped = set[int]()
        stream = self._passages(changed, dropped)
        while group := list(itertools.islice(stream, GROUP)):
            kept = [(number, passage) for number, passage in group if number not in dropped]
            vectors = self.embedder.embed([passage.with_heading for _, passage in kept])
            first = 0
            for number, items in itertools.groupby(kept, key=lambda item: item[0]):
                of_document = [passage for _, passage in items]
                last = first + len(of_document)
                self.writer.add_passages(number, of_document, vectors[first:last])
                first = last
            self.written += len(kept)

    def _passages(
        self, changed: dict[str, str], dropped: set[int]
    ) -> Iterator[tuple[int, Passage]]:
        """The passages of documents, each with the number of its document."""
        total = len(changed)
        for done, (path, digest) in enumerate(list(changed.items())):
            self.progress(done, total, self.written)
            self.writer.remove(path)
            number = self.writer.add_document(path, digest)
            is_read = False
            with self._skipping(path):
                count = self.embedder.count_tokens
                for passage in passages(read_document(path), count, self.limit):
                    yield number, passage
                is_read = True
            if not is_read:
                dropped.add(number)
                self.writer.remove(path)
                del changed[path]

    @contextmanager
    def _skipping(self, path: str) -> Iterator[None]:
        """Note a document that cannot be read, if that is allowed."""
        try:
            yield
        except UserError as error:
            if not self.skips:
                raise
            log.warning("skipped: %s", error)
            self.skipped.append(str(error))
