"""`llmjax harness`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmjax.cli.options import ModelOptions
from llmjax.cli.verb import Verb, print_json
from llmjax.errors import UserError


@dataclass(frozen=True)
class _Tasks:
    """What is asked, and how."""

    tasks: tuple[str, ...] = ()
    """The harness's tasks, groups and tags: arc_easy,hellaswag or one by one."""
    include_path: str | None = None
    """A folder with more task files."""
    limit: float | None = None
    """Only so many of the first examples of each task; below 1, that share of them."""
    fewshot: int | None = None
    """Solved examples before each question; none: as the task says."""
    chat: bool = False
    """Whether questions are asked in the model's chat template."""
    samples: bool = False
    """Whether every question and answer is kept in the file of results."""
    out: str | None = None
    """A JSON file for the results; none: RUN/harness.json."""
    max_length: int | None = None
    """Tokens that are read at once; none: the model's context."""
    batch_size: int = 16
    """Rows at once."""


@dataclass(frozen=True)
class Options(ModelOptions, _Tasks):
    """Options of harness."""


VERB = Verb(
    usage="llmjax harness RUN --tasks NAME,NAME ... [--include-path DIR] [--option value ...]",
    about="EleutherAI's lm-evaluation-harness on a run: prints its table and writes its results. "
    "Needs the extra lm-eval.",
    names=("RUN",),
    options=Options(),
)


def main(argv: Sequence[str]) -> int:
    """Runs the harness; prints its table, or JSON."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    options, run = parsed.options, parsed.positionals[0]
    tasks = [name for word in options.tasks for name in word.split(",") if name]
    if not tasks:
        raise UserError("harness", "there is no task", "give --tasks NAME,NAME")
    from llmjax.evaluation.harness import harness, table
    from llmjax.parallel.compilation import enable_compilation_cache
    from llmjax.run.folder import Run

    enable_compilation_cache()
    Run.open(run)
    out = Path(run) / "harness.json" if options.out is None else Path(options.out)
    results = harness(
        run,
        tasks,
        include_path=options.include_path,
        limit=options.limit,
        fewshot=options.fewshot,
        chat=options.chat,
        samples=options.samples,
        out=out,
        max_length=options.max_length,
        batch_size=options.batch_size,
        **options.loading(),
    )
    if "json" in parsed.flags:
        print_json({"run": run, "out": str(out), "results": results["results"]})
    else:
        print(table(results))
    return 0
