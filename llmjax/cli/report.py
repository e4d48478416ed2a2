"""`llmjax report`."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.cli.verb import Verb, print_json


@dataclass(frozen=True)
class Options:
    """Options of report."""

    out: str | None = None
    """The page's path; none: RUN/report.html."""


VERB = Verb(
    usage="llmjax report RUN [--out FILE]",
    about="Writes a run as one offline HTML page: curves, a table beside classical compressors, "
    "samples, config, environment. Prints the page's path.",
    names=("RUN",),
    options=Options(),
)


def main(argv: Sequence[str]) -> int:
    """Writes the page; prints its path."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    from llmjax.reporting.report import report

    path = report(parsed.positionals[0], parsed.options.out)
    if "json" in parsed.flags:
        print_json({"run": parsed.positionals[0], "report": str(path)})
    else:
        print(path)
    return 0
