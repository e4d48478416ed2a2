"""`llmjax evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmjax.cli.options import ModelOptions, TellingOptions
from llmjax.cli.verb import Verb, print_json

if TYPE_CHECKING:
    from llmjax.evaluation.baselines import Baseline
    from llmjax.evaluation.result import Evaluation
    from llmjax.evaluation.task_evaluation import TaskEvaluations


@dataclass(frozen=True)
class _Texts:
    """What is scored, and how."""

    data: tuple[str, ...] = ()
    """Files and globs, each file a document of UTF-8 text (also .gz, .bz2, .xz, .zst); without
    any, the run's held-out documents."""
    context: int | None = None
    """Tokens of a window; none: as the run evaluates."""
    stride: int | None = None
    """Tokens from one window to the next; none: as the run evaluates, or half of a --context."""
    batch_size: int | None = None
    """Windows scored at once; none: as the run evaluates."""
    task: str | None = None
    """Of a run with tasks, only this one; then --data names tables with their columns."""


@dataclass(frozen=True)
class Options(ModelOptions, TellingOptions, _Texts):
    """Options of evaluate."""


VERB = Verb(
    usage="llmjax evaluate RUN [--data FILE ...] [--option value ...]",
    about="Loss per token, perplexity and bits per byte of held-out text or of any file: every "
    "byte of the text counted once, the bits of special tokens included. Of a fine-tuned run, its "
    "tasks' figures, on what they hold out or on other tables. All with 95 % bootstrap intervals.",
    names=("RUN",),
    options=Options(),
)


def main(argv: Sequence[str]) -> int:
    """Evaluates; prints a table, or JSON."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    from llmjax.data.progress import terminal_progress
    from llmjax.evaluation.evaluate import evaluate
    from llmjax.parallel.compilation import enable_compilation_cache

    enable_compilation_cache()

    options = parsed.options
    with terminal_progress() as progress:
        result = evaluate(
            parsed.positionals[0],
            data=options.data,
            context=options.context,
            stride=options.stride,
            batch_size=options.batch_size,
            task=options.task,
            **options.telling(),
            **options.loading(),
            progress=progress,
        )
    baselines = () if options.data else _baselines(parsed.positionals[0], result)
    if "json" in parsed.flags:
        found = {baseline.name: baseline.bits_per_byte for baseline in baselines}
        print_json(result.to_dict() | ({"baselines": found} if found else {}))
        return 0
    print(result)
    if baselines:
        from rich.console import Console

        from llmjax.evaluation.baselines import comparison_table

        assert result.bits_per_byte is not None  # or there would be nothing to compare
        Console().print("", comparison_table(result.bits_per_byte, baselines), sep="\n")
    return 0


def _baselines(folder: str, result: "Evaluation | TaskEvaluations") -> "Sequence[Baseline]":
    """Classical compressors on the same held-out text; none where they saw only a part of it."""
    from llmjax.reporting.heldout import compare, heldout_text
    from llmjax.run.folder import Run

    if result.bits_per_byte is None:
        return ()
    run = Run.open(folder)
    baselines = compare(run.folder, lambda: heldout_text(run, run.config())).baselines
    return [one for one in baselines if one.original_bytes == result.bytes]
