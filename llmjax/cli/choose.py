"""`llmjax choose`."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.cli.options import ModelOptions
from llmjax.cli.verb import Verb, print_json
from llmjax.errors import UserError


@dataclass(frozen=True)
class _Questions:
    """What is asked, and how."""

    data: tuple[str, ...] = ()
    """JSONL files (also CSV, TSV, Parquet, compressed): a line {"question": ..., "choices": [...],
    "answer": its number from 0, or its text; may be missing} for each question; "context" may stand
    for "question"."""
    prompt: str = "{}"
    """What the model reads before a choice; the question stands for {}."""
    delimiter: str = " "
    """Between that and the choice."""
    limit: int | None = None
    """Only so many of the first questions; none: all."""
    batch_size: int = 16
    """Rows read at once."""


@dataclass(frozen=True)
class Options(ModelOptions, _Questions):
    """Options of choose."""


VERB = Verb(
    usage="llmjax choose RUN --data FILE.jsonl [--option value ...]",
    about="Multiple choice by likelihood: how likely each choice is after its question, accuracy, "
    "and accuracy by likelihood per byte, with bootstrap intervals. With --json a line for each "
    "question as it is rated, and the figures on the last line.",
    names=("RUN",),
    options=Options(),
)


def main(argv: Sequence[str]) -> int:
    """Rates choices; prints a table, or JSON lines."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    options, as_json = parsed.options, "json" in parsed.flags
    if not options.data:
        raise UserError("choose", "there are no questions", "give --data FILE.jsonl")
    from llmjax.evaluation.choose import choose
    from llmjax.parallel.compilation import enable_compilation_cache

    enable_compilation_cache()
    result = choose(
        parsed.positionals[0],
        options.data,
        prompt=options.prompt,
        delimiter=options.delimiter,
        limit=options.limit,
        batch_size=options.batch_size,
        each=(lambda rated: print_json(rated.to_dict())) if as_json else None,
        **options.loading(),
    )
    if as_json:
        print_json(result.to_dict())
    else:
        print(result)
    return 0
