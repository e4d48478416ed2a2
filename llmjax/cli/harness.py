"""`llmjax harness`."""

from dataclasses import replace

from llmjax.cli.command import Call, Command, Output
from llmjax.errors import UserError
from llmjax.evaluation.harness import HarnessOptions, harness, table
from llmjax.run.folder import Run
from llmjax.storage.stores.mirror import write_back
from llmjax.storage.stores.path import local_path


def run(call: Call[HarnessOptions]) -> Output:
    """Runs the harness; prints its table, or JSON."""
    name, options = call.words[0], call.options
    if not any(word.strip(",") for word in options.tasks):
        raise UserError("harness", "there is no task", "give --tasks NAME,NAME")
    opened = Run.open(name)
    out = str(opened.folder / "harness.json") if options.out is None else options.out
    results = harness(name, options=replace(options, out=out))
    write_back(local_path(out))
    return Output({"run": name, "out": out, "results": results["results"]}, table(results))


HARNESS = Command(
    about="Runs EleutherAI's lm-evaluation-harness on a run: prints its table and writes its "
    "results. Needs the extra lm-eval.",
    positionals=("RUN",),
    usage="--tasks NAME,NAME ... [--include-path DIR] [--option value ...]",
    options=HarnessOptions,
    run=run,
)
