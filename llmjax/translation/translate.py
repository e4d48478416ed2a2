"""The command `translate`: documents in another language, their structure kept."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from llmjax.data.tables.table import Row
from llmjax.data.text.sentences import fitting, sentences
from llmjax.errors import UserError
from llmjax.evaluation.predict import predict_rows
from llmjax.evaluation.task_evaluation import TaskOverrides, apply_overrides, choose_tasks
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.run.config.options import keyword_options, make_options
from llmjax.storage.bounded import MIB, read_bytes
from llmjax.storage.writing import write_atomically
from llmjax.tasks.sequence import SequenceTask
from llmjax.tasks.task import Task
from llmjax.translation.document import FORMATS
from llmjax.translation.glossary import Glossary, read_glossary

log = logging.getLogger(__name__)

LIMIT = 64 * MIB
"""Bytes of a document."""


@dataclass(frozen=True)
class TranslateOptions(TaskOverrides, LoadOptions):
    """Options of translate."""

    glossary: str | None = None
    """File of fixed terms: a line each, the term and its translation with a tab between."""
    language: str = "en"
    """Code of the documents' language, whose rules find the ends of sentences."""
    task: str | None = None
    """The task of the run; none: the only one."""
    batch_size: int | None = None
    """Packed rows per batch; none: as in the run's config."""


@dataclass(frozen=True)
class TranslateResult:
    """What was translated.

    Attributes:
      texts: paragraphs, cells and the like.
      sentences: that they have.
      missing: fixed terms that translations lack, in all.
    """

    texts: int
    sentences: int
    missing: int


class _Part:
    """A text as pieces to translate, with the white space between them."""

    def __init__(self, pieces: Sequence[str], text: str):
        self.cores = [piece.strip() for piece in pieces]
        self._spaces = list[str]()
        start = 0
        for core in self.cores:
            first = text.index(core, start)
            self._spaces.append(text[start:first])
            start = first + len(core)
        self._spaces.append(text[start:])

    def render(self, translations: Sequence[str]) -> str:
        """The text with translations in place of its pieces."""
        first, *others = self._spaces
        pairs = zip(translations, others, strict=True)
        return first + "".join(text + space for text, space in pairs)


class Translator:
    """Translates texts with a loaded run.

    Attributes:
      sentences, missing: totals so far; see TranslateResult.
    """

    def __init__(
        self,
        lm: LanguageModel,
        task: Task,
        glossary: Glossary,
        language: str = "en",
        batch_size: int | None = None,
    ):
        """
        Args:
          lm: the model.
          task: its translation task.
          glossary: fixed terms.
          language: of the texts.
          batch_size: packed rows per batch; None: as in the run's config.
        """
        assert isinstance(task.config, SequenceTask)
        self._lm, self._task, self._config = lm, task, task.config
        self._glossary, self._language, self._batch_size = glossary, language, batch_size
        self.sentences = self.missing = 0

    def texts(self, texts: Sequence[str]) -> list[str]:
        """Translate texts: sentence by sentence, each as `predict` does, in batches.

        A sentence that is too long for the model is cut at spaces. White space between sentences
        stays.
        """
        parts = [self._part(text) for text in texts]
        cores = [core for part in parts for core in part.cores]
        translations = self._translations(cores)
        found = list[str]()
        for part in parts:
            found.append(part.render(translations[: len(part.cores)]))
            del translations[: len(part.cores)]
        return found

    def lines(self, lines: Iterable[str]) -> Iterator[str]:
        """Translate lines as they come, each with its line end."""
        for line in lines:
            core = line.strip()
            yield line.replace(core, self.texts([core])[0], 1) if core else line

    def _part(self, text: str) -> _Part:
        pieces = [
            piece
            for sentence in sentences(text, self._language)
            for piece, _ in fitting(sentence, self._count_tokens, self._space)
            if piece.strip()
        ]
        return _Part(pieces, text)

    @property
    def _space(self) -> int:
        """Tokens of a sentence that the model reads whole.

        A decoder needs half of its context for the translation.
        """
        length, tokenizer = self._task.context.length, self._lm.tokenizer
        if not self._lm.model.config.is_encoder_decoder:
            length //= 2
        around = len(tokenizer.wrap([])[0]) + len(tokenizer.encode(self._config.prompt))
        return max(1, length - around)

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        encoded = self._lm.tokenizer.encode_batch([self._glossary.apply(text) for text in texts])
        return [len(ids) for ids in encoded]

    def _translations(self, cores: Sequence[str]) -> list[str]:
        column = self._config.source
        rows = (
            Row(f"sentence {number}", {column: self._glossary.apply(core)})
            for number, core in enumerate(cores, self.sentences + 1)
        )
        predicted = predict_rows(self._lm, self._task, rows, self._batch_size)
        # A line break would be one of the document's.
        translations = [re.sub(r"[\r\n]+", " ", prediction["text"]) for prediction in predicted]
        for core, translation in zip(cores, translations, strict=True):
            if lacking := self._glossary.missing(core, translation):
                log.warning("%s: not in the translation of %r", ", ".join(lacking), core[:80])
                self.missing += len(lacking)
        self.sentences += len(cores)
        return translations


@keyword_options()
def open_translator(
    run: str | PathLike[str] | LanguageModel, options: TranslateOptions
) -> Translator:
    """Load a run that translates.

    Args:
      run: a run folder with a sequence task, or a loaded model.
      options: fields of TranslateOptions, also as keywords.

    Raises:
      UserError: no such run or task, the task does not generate text from text, or the glossary
        cannot be read.
    """
    glossary = read_glossary(options.glossary)
    lm = loaded(run, options)
    overrides = make_options(TaskOverrides, options, {})
    (task,) = apply_overrides(choose_tasks(lm, options.task, single=True), overrides)
    if not isinstance(task.config, SequenceTask):
        reason = f"is of kind {task.config.kind}, and does not generate text from text"
        raise UserError(f"task {task.name}", reason, "train one of kind sequence")
    return Translator(lm, task, glossary, options.language, options.batch_size)


@keyword_options()
def translate(
    run: str | PathLike[str] | LanguageModel,
    source: str | PathLike[str],
    out: str | PathLike[str],
    options: TranslateOptions,
) -> TranslateResult:
    """Translate a document.

    Args:
      run: a run folder with a sequence task, or a loaded model.
      source: a text, Markdown, HTML, SubRip or Word file.
      out: file of the same format, replaced at the end.
      options: fields of TranslateOptions, also as keywords.

    Raises:
      UserError: as `open_translator`; the document cannot be read, or its format is unknown or
        another than that of `out`.
    """
    suffix = check_formats(source, out)
    document = FORMATS[suffix]().parse(read_bytes(os.fspath(source), LIMIT), os.fspath(source))
    translator = open_translator(run, options)
    content = document.render(translator.texts(document.texts))
    try:
        write_atomically(Path(out), content)
    except OSError as error:
        raise UserError(out, f"cannot be written: {error.strerror}", "choose another") from error
    return TranslateResult(len(document.texts), translator.sentences, translator.missing)


def check_formats(source: str | PathLike[str], out: str | PathLike[str]) -> str:
    """Check that two files have one known format, and return its suffix.

    Raises:
      UserError: they have not.
    """
    suffix = Path(source).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(source, "has no suffix of a document", f"those are {', '.join(FORMATS)}")
    other = Path(out).suffix.lower()
    if other not in FORMATS or FORMATS[other] is not FORMATS[suffix]:
        raise UserError(out, f"is not named as {suffix}, the format of the input", "rename it")
    return suffix
