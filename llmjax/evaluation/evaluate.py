"""The verb `evaluate`: loss, perplexity and bits per byte of held-out text, or of any file."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from llmjax.data.objectives.vocabulary import make_objective
from llmjax.data.progress import Progress, no_progress
from llmjax.data.tables.table import Table
from llmjax.data.text.corpus import Document, heldout_documents, prepare
from llmjax.data.text.reading import decode, expand, read_chunks
from llmjax.data.text.source import Source
from llmjax.errors import UserError
from llmjax.evaluation.result import Evaluation
from llmjax.evaluation.task_evaluation import TaskEvaluations, as_tables, evaluate_tasks
from llmjax.inference.language_model import LanguageModel, load
from llmjax.model.compute import Dtype
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.folder import Run
from llmjax.scoring.documents import score_streams, window_sizes
from llmjax.scoring.drawn import DrawnScore, score_drawn
from llmjax.scoring.score import Score
from llmjax.tasks.options import PredictOptions

CHUNK = 1 << 20  # bytes of a file that are encoded at once


def evaluate(
    run: str | Path | LanguageModel,
    *,
    data: str | Path | Source | Table | Sequence[str | Path | Source | Table] = (),
    context: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    task: str | None = None,
    no_answer_threshold: float | None = None,
    beams: int | None = None,
    step: int | None = None,
    dtype: Dtype | None = None,
    mesh: Mesh | MeshConfig | None = None,
    progress: Progress = no_progress,
) -> Evaluation | TaskEvaluations:
    """Scores the run's own held-out documents, or other text; of a run of tasks, these.

    A run of another objective than the causal is scored on what that hides, drawn from a fixed
    seed: the loss and accuracy of the hidden tokens, and no bits per byte.

    Args:
      run: a run folder, or a model in hand (then step, dtype and mesh are its own).
      data: files and globs, each file a document of UTF-8 text (also .gz, .bz2, .xz, .zst); or
        sources, with a document for each of theirs. Of a run of tasks: tables. Empty: what the
        run holds out.
      context: tokens of a window; None: as the run evaluates (see EvaluationConfig).
      stride: tokens from one window to the next; None: likewise.
      batch_size: rows at once; None: likewise.
      task: of a run of tasks, only this one; None: all, or with `data` the only one.
      no_answer_threshold: of tasks that find answers, in place of the run's (see ExtractiveQATask).
      beams: of tasks that write text, in place of the run's (see SequenceTask).
      step: which checkpoint; None for the newest complete one (see `load`).
      dtype: what is computed in; None: as trained.
      mesh: the devices to use; None for one device.
      progress: told how far things are.

    Raises:
      UserError: no such run, step, task or file; text that is not UTF-8 (with the byte's offset);
        no text at all; windows that do not suit the model.
    """
    lm = run if isinstance(run, LanguageModel) else load(run, step=step, dtype=dtype, mesh=mesh)
    began = time.perf_counter()
    options = PredictOptions(no_answer_threshold, beams)
    given = [data] if isinstance(data, str | Path | Source | Table) else data
    if lm.config.tasks:
        if context is not None or stride is not None:
            raise UserError("context and stride", "have no meaning for tasks", "leave them out")
        tables = as_tables(given)
        return evaluate_tasks(
            lm, tables, task=task, batch_size=batch_size, options=options, progress=progress
        )
    if task is not None or options.overrides:
        name = f"task {task}" if task is not None else next(iter(options.overrides))
        raise UserError(name, f"{lm.config.run_dir} is a run without tasks")
    names = ", ".join(_name(item) for item in given) or "the run's held-out text"
    texts = _Encoder(lm)
    streams = texts.streams(map(_text_source, given)) if given else texts.heldout(lm, progress)
    score = _priced if lm.config.objective.is_causal else _drawn
    found = score(lm, _reported(streams, progress), _Windows(context, stride, batch_size))
    seconds = time.perf_counter() - began
    return Evaluation(lm.config.run_dir, lm.step, names, found, texts.lossless, seconds)


class _Windows(NamedTuple):
    """What was asked for; None: as the run evaluates."""

    context: int | None
    stride: int | None
    batch_size: int | None


def _priced(lm: LanguageModel, streams: Iterable[Iterable[Document]], asked: _Windows) -> Score:
    config, (context, stride, _) = lm.config.evaluation, asked
    if context is None:
        context, stride = _given(config.context, lm.context), _given(stride, config.stride)
    sizes = window_sizes(lm.model.config, context, stride)
    rows = _given(asked.batch_size, config.batch_size)
    return score_streams(lm.model, lm.params, lm.tokenizer, streams, sizes, rows, lm.mesh)


def _drawn(lm: LanguageModel, streams: Iterable[Iterable[Document]], asked: _Windows) -> DrawnScore:
    if asked.stride is not None:
        raise UserError(f"stride {asked.stride}", "only causal models are scored in windows")
    encodes, config = lm.model.config.is_encoder_decoder, lm.config.evaluation
    hides = make_objective(lm.config.objective, lm.tokenizer, encodes=encodes)
    whole = (_joined(list(pieces)) for pieces in streams)
    context = _given(asked.context, _given(config.context, lm.context))
    sizes = {"context": context, "batch_size": _given(asked.batch_size, config.batch_size)}
    return score_drawn(lm.model, lm.params, hides, whole, mesh=lm.mesh, **sizes)


def _joined(pieces: Sequence[Document]) -> Document:
    tokens = np.concatenate([piece.tokens for piece in pieces])
    return Document(tokens, sum(piece.bytes for piece in pieces))


def _text_source(item: str | Path | Source | Table) -> str | Path | Source:
    if isinstance(item, Table):
        raise UserError(f"{item.kind} table", "a run without tasks reads text", "name a text file")
    return item


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _name(item: object) -> str:
    return f"{item.kind} source" if isinstance(item, Source) else str(item)


def _reported(
    streams: Iterable[Iterable[Document]], progress: Progress
) -> Iterator[Iterator[Document]]:
    done = 0

    def pieces(stream: Iterable[Document]) -> Iterator[Document]:
        nonlocal done
        for piece in stream:
            progress("Scoring", done, None)
            done += piece.bytes
            yield piece

    return (pieces(stream) for stream in streams)


class _Encoder:
    """Files and sources to streams of tokens.

    Attributes:
      lossless: whether all text so far is what its tokens decode to.
    """

    def __init__(self, lm: LanguageModel):
        self.lossless = True
        self._tokenizer, self._cache = lm.tokenizer, lm.config.data.cache_dir
        # Where encoding puts a space before a text, a file cannot be encoded piece by piece.
        alone = b"".join(map(self._tokenizer.piece_bytes, self._tokenizer.encode("a")))
        self._chunk = CHUNK if alone == b"a" else 1 << 62

    def streams(self, items: Iterable[str | Path | Source]) -> Iterator[Iterator[Document]]:
        """Each document as a stream of its pieces."""
        for item in items:
            if isinstance(item, Source):
                for text in item.documents(self._cache):
                    yield self._document([text])
            else:
                for path in expand((str(item),)):
                    yield self._document(self._file(path))

    def heldout(self, lm: LanguageModel, progress: Progress) -> Iterator[list[Document]]:
        """Each document that the run held out, in one piece."""
        if not lm.config.data.heldout_fraction:
            reason = "holds out no text (data.heldout_fraction is 0)"
            raise UserError(lm.config.run_dir, reason, "name a file with --data")
        folder = Run.open(lm.config.run_dir).tokenizer
        _, corpus = prepare(lm.config.data, lm.config.tokenizer, folder, progress)
        for document in heldout_documents(corpus):
            text = self._tokenizer.decode_bytes(document.tokens.tolist())
            self.lossless &= len(text) == document.bytes
            yield [document]

    def _file(self, path: Path) -> Iterator[str]:
        for offset, block in read_chunks(path, self._chunk):
            try:
                yield decode(path, offset, block, "strict")
            except UserError as error:
                raise UserError(error.thing, error.reason, "convert it to UTF-8") from error

    def _document(self, texts: Iterable[str]) -> Iterator[Document]:
        for text in texts:
            ids, original = self._tokenizer.encode(text), text.encode()
            self.lossless &= self._tokenizer.decode_bytes(ids) == original
            yield Document(np.array(ids, np.int32), len(original))
        yield Document(np.array([self._tokenizer.eos_id], np.int32), 0)
