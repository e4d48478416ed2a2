"""The command `evaluate`: loss, perplexity and bits per byte of validation text or files."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.data.objectives.vocabulary import make_objective
from llmjax.data.progress import Progress, no_progress
from llmjax.data.tables.table import Table
from llmjax.data.text.corpus import Document, prepare, validation_documents, validation_text
from llmjax.data.text.reading import decode, expand, read_chunks
from llmjax.data.text.source import Source, filtered
from llmjax.errors import UserError
from llmjax.evaluation.task_evaluation import (
    TaskEvaluations,
    TaskOverrides,
    as_tables,
    evaluate_tasks,
)
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.run.config.options import keyword_options, make_options
from llmjax.run.folder import Run
from llmjax.scoring.documents import score_streams, window_sizes
from llmjax.scoring.hidden import HiddenScore, score_hidden
from llmjax.scoring.totals import Score, Totals
from llmjax.storage.stores.path import Location, local_path
from llmjax.storage.writing import write_atomically

CHUNK = 1 << 20  # bytes of a file encoded at once


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation; print it for a table.

    Attributes:
      run: the run folder.
      step: of the checkpoint.
      data: the files, or the name of another source.
      score: sums and metrics; a Score for the causal objective, a HiddenScore for others.
      lossless: whether the tokenizer reproduces the text exactly; otherwise the bits per byte are
        not those of the original text.
      seconds: wall-clock time of reading, encoding, compiling and scoring.
    """

    run: str
    step: int
    data: str
    score: Totals
    lossless: bool
    seconds: float

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of the original text; None unless the objective is causal."""
        return self.score.quality()["bits_per_byte"]

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the original text."""
        return self.score.bytes

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, for JSON."""
        score = self.score
        return {
            "run": self.run,
            "step": self.step,
            "data": self.data,
            **score.quality(),
            "loss": score.loss_per_token,
            "perplexity": score.perplexity,
            "nats": score.nats,
            "tokens": score.tokens,
            "bytes": score.bytes,
            "documents": score.documents,
            "intervals": {
                name: {"low": low, "high": high} for name, (low, high) in score.intervals().items()
            },
            "context": score.context,
            "stride": getattr(score, "stride", None),
            "lossless": self.lossless,
            "seconds": self.seconds,
            "tokens_per_second": score.tokens / self.seconds,
        }

    def __str__(self) -> str:
        score, intervals = self.score, _intervals(self.score)
        summary = score.summary()
        first, *rest = summary
        rows = {
            first: summary[first] + intervals.get(first, ""),
            "loss": f"{score.loss_per_token:.4f} nats per token{intervals.get('loss', '')}",
            "perplexity": f"{score.perplexity:.4g} per token{intervals.get('perplexity', '')}",
            "text": f"{score.bytes:,} bytes in {score.documents:,} document"
            + ("s" if score.documents != 1 else ""),
            **{name: summary[name] for name in rest},
            "time": f"{self.seconds:.1f} s, {score.tokens / self.seconds:,.0f} tokens/s",
        }
        if intervals:
            rows["intervals"] = "95 %, bootstrap resampling of documents"
        if not self.lossless:
            rows["note"] = "the tokenizer does not reproduce this text exactly"
        lines = (f"  {name:15}{value}" for name, value in rows.items())
        return "\n".join([f"{self.run} at step {self.step} on {self.data}", *lines])


def _intervals(score: Totals) -> dict[str, str]:
    """Format the intervals, by display name."""
    forms = {"accuracy": "{:.2%}", "perplexity": "{:.4g}"}
    shown = {}
    for name, (low, high) in score.intervals().items():
        form = forms.get(name, "{:.4f}")
        shown[name.replace("_", " ")] = f"   ({form.format(low)} to {form.format(high)})"
    return shown


@dataclass(frozen=True)
class EvaluateOptions(TaskOverrides, LoadOptions):
    """Options of evaluate."""

    data: tuple[str, ...] = ()
    """Files and globs, each file one document of UTF-8 text (also .gz, .bz2, .xz, .zst), in Python
    also sources; for a run with tasks, tables. Empty: the run's validation set."""
    context: int | None = None
    """Tokens per window; none: as in the run's config."""
    stride: int | None = None
    """Stride of the sliding window; none: as in the run's config, or half of a given --context."""
    batch_size: int | None = None
    """Windows per batch; none: as in the run's config."""
    save_text: str | None = None
    """File to write the validation set's original text to, as for other compressors."""
    task: str | None = None
    """Evaluate only this task of the run; --data then names tables with its columns."""


@keyword_options()
def evaluate(
    run: str | PathLike[str] | LanguageModel,
    options: EvaluateOptions,
    *,
    progress: Progress = no_progress,
) -> Evaluation | TaskEvaluations:
    """Score a run's validation documents or other text, or evaluate the tasks of a run.

    A run with a non-causal objective is scored on hidden tokens, drawn from a fixed seed: their
    loss and accuracy, without bits per byte.

    Args:
      run: a run folder, or a loaded model.
      options: fields of EvaluateOptions, also as keywords.
      progress: called with the progress.

    Raises:
      UserError: no such run, step, task or file; text that is not UTF-8 (names the byte offset); no
        text; a context or stride that is invalid for the model; the file to write to has other
        content.
    """
    lm, start = loaded(run, options), time.perf_counter()
    if options.save_text is not None and (options.data or lm.config.tasks):
        raise UserError("save_text", "applies to a validation set of text", "leave it out")
    overrides = make_options(TaskOverrides, options, {})
    data: tuple[str | Path | Source | Table, ...] = options.data
    if lm.config.tasks:
        if options.context is not None or options.stride is not None:
            raise UserError("context and stride", "have no meaning for tasks", "leave them out")
        return evaluate_tasks(
            lm,
            as_tables(data),
            task=options.task,
            batch_size=options.batch_size,
            overrides=overrides,
            progress=progress,
        )
    if options.task is not None or overrides.values:
        name = f"task {options.task}" if options.task is not None else next(iter(overrides.values))
        raise UserError(name, f"{lm.config.run_dir} is a run without tasks")
    names = ", ".join(_name(item) for item in data) or "the run's validation set"
    encoder = _Encoder(lm)
    sources = map(_text_source, data)
    streams = (
        encoder.streams(sources) if data else encoder.validation(lm, progress, options.save_text)
    )
    score = _score_causal if lm.config.objective.is_causal else _score_hidden
    totals = score(lm, _reported(streams, progress), options)
    seconds = time.perf_counter() - start
    return Evaluation(lm.config.run_dir, lm.step, names, totals, encoder.lossless, seconds)


def _score_causal(
    lm: LanguageModel, streams: Iterable[Iterable[Document]], options: EvaluateOptions
) -> Score:
    config, context, stride = lm.config.evaluation, options.context, options.stride
    if context is None:
        context, stride = (
            _or_default(config.context, lm.context),
            _or_default(stride, config.stride),
        )
    sizes = window_sizes(lm.model.config, context, stride)
    rows = _or_default(options.batch_size, config.batch_size)
    return score_streams(lm.model, lm.params, lm.tokenizer, streams, sizes, rows, lm.mesh)


def _score_hidden(
    lm: LanguageModel, streams: Iterable[Iterable[Document]], options: EvaluateOptions
) -> HiddenScore:
    if options.stride is not None:
        raise UserError(f"stride {options.stride}", "applies to causal models only")
    encodes, config = lm.model.config.is_encoder_decoder, lm.config.evaluation
    objective = make_objective(lm.config.objective, lm.tokenizer, is_encoder_decoder=encodes)
    documents = (_joined(list(pieces)) for pieces in streams)
    return score_hidden(
        lm.model,
        lm.params,
        objective,
        documents,
        context=_or_default(options.context, _or_default(config.context, lm.context)),
        batch_size=_or_default(options.batch_size, config.batch_size),
        mesh=lm.mesh,
    )


def _joined(pieces: Sequence[Document]) -> Document:
    tokens = np.concatenate([piece.tokens for piece in pieces])
    return Document(tokens, sum(piece.bytes for piece in pieces))


def _text_source(item: str | Path | Source | Table) -> str | Path | Source:
    if isinstance(item, Table):
        raise UserError(f"{item.kind} table", "a run without tasks reads text", "name a text file")
    return item


def _or_default(value: Any, default: Any) -> Any:
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


def _write_new(path: Path, text: bytes) -> None:
    """Write a file that does not exist, or has the same content already."""
    try:
        if path.exists() and path.read_bytes() != text:
            raise UserError(path, "exists, with other content", "remove it or name another file")
        write_atomically(path, text)
    except OSError as error:
        raise UserError(path, f"cannot be written: {error.strerror}") from error


class _Encoder:
    """Encodes files and sources to streams of tokens.

    Attributes:
      lossless: whether all tokens so far decode to their text exactly.
    """

    def __init__(self, lm: LanguageModel):
        self.lossless = True
        self._tokenizer, self._cache = lm.tokenizer, lm.config.data.cache_dir
        # If encoding adds a leading space, a file cannot be encoded piece by piece.
        letter = b"".join(map(self._tokenizer.piece_bytes, self._tokenizer.encode("a")))
        self._chunk = CHUNK if letter == b"a" else 1 << 62

    def streams(self, items: Iterable[str | Path | Source]) -> Iterator[Iterator[Document]]:
        """Yield each document as a stream of pieces."""
        for item in items:
            if isinstance(item, Source):
                for text in filtered(item, self._cache):
                    yield self._document([text])
            else:
                for path in expand((str(item),)):
                    yield self._document(self._file(path))

    def validation(
        self, lm: LanguageModel, progress: Progress, save_text: str | None
    ) -> Iterator[Iterator[Document]]:
        """Yield each validation document of the run, in one piece; write their text to a file."""
        if not lm.config.data.validation_fraction:
            reason = "has no validation set (data.validation_fraction is 0)"
            raise UserError(lm.config.run_dir, reason, "name a file with --data")
        folder = Run.open(lm.config.run_dir).tokenizer
        _, corpus = prepare(lm.config.data, lm.config.tokenizer, folder, progress)
        if save_text is not None:
            _write_new(local_path(save_text), validation_text(corpus))
        for document in validation_documents(corpus):
            text = self._tokenizer.decode_bytes(document.tokens.tolist())
            self.lossless &= len(text) == document.bytes
            yield iter([document])

    def _file(self, path: Location) -> Iterator[str]:
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
