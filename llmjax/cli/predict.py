"""`llmjax predict`."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.cli.options import ModelOptions, TellingOptions
from llmjax.cli.verb import Verb, print_json
from llmjax.data.tables.table import AnyTable


@dataclass(frozen=True)
class _Rows:
    """What is predicted for."""

    data: tuple[AnyTable, ...] = ()
    """Tables: CSV, TSV, JSONL or Parquet files with the columns that the task was trained on; the
    column of answers is not read, and may be missing."""
    text: tuple[str, ...] = ()
    """A row more, spelt here: the text; of pairs, or a question and its context, give it twice."""
    task: str | None = None
    """Which of the run's tasks; none: the only one."""
    batch_size: int | None = None
    """Rows of tokens at once; none: as the run evaluates."""


@dataclass(frozen=True)
class Options(ModelOptions, TellingOptions, _Rows):
    """Options of predict."""


VERB = Verb(
    usage="llmjax predict RUN --data FILE [--option value ...]",
    about="What a fine-tuned model says of rows, as a JSON object a line, as they come: labels "
    "with probabilities, numbers, tags of words, answers with their places, written text.",
    names=("RUN",),
    options=Options(),
    single=("text",),
)


def main(argv: Sequence[str]) -> int:
    """Predicts; streams JSON lines."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    from llmjax.evaluation.predict import predict
    from llmjax.parallel.compilation import enable_compilation_cache

    enable_compilation_cache()
    options = parsed.options
    found = predict(
        parsed.positionals[0],
        options.data,
        texts=options.text,
        task=options.task,
        batch_size=options.batch_size,
        **options.telling(),
        **options.loading(),
    )
    for one in found:
        print_json(one)
    return 0
