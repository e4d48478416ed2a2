"""`llmjax report`."""

from llmjax.cli.command import Call, Command, Output
from llmjax.reporting.report import ReportOptions, report


def run(call: Call[ReportOptions]) -> Output:
    """Writes the page; prints its path."""
    path = report(call.words[0], options=call.options)
    return Output({"run": call.words[0], "report": str(path)}, path)


REPORT = Command(
    about="Writes an offline HTML page about a run: curves, a comparison with classical "
    "compressors, samples, config, environment. Prints the page's path.",
    positionals=("RUN",),
    usage="[--out FILE]",
    options=ReportOptions,
    run=run,
    compiles=False,
)
