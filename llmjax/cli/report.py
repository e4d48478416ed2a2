"""`llmjax report`."""

from llmjax.cli.command import Call, Command, Output
from llmjax.reporting.report import ReportOptions, report


def run(call: Call[ReportOptions]) -> Output:
    """Writes the page; prints its path."""
    if len(call.words) > 1:
        path = report(call.words, options=call.options)
        return Output({"runs": list(call.words), "report": str(path)}, path)
    path = report(call.words[0], options=call.options)
    return Output({"run": call.words[0], "report": str(path)}, path)


REPORT = Command(
    about="Writes an offline HTML page about a run: curves, a comparison with classical "
    "compressors, samples, config, commands, environment. Of several runs, a page that compares "
    "them: curves in one frame, best figures, config differences. Prints the page's path.",
    positionals=("RUN...",),
    usage="[--out FILE]",
    options=ReportOptions,
    run=run,
    aliases={"output": "out"},
    compiles=False,
)
