"""`llmjax index`."""

import sys
import time

from llmjax.cli.command import Call, Command, Output
from llmjax.retrieval.index import IndexOptions, Progress, index


def run(call: Call[IndexOptions]) -> Output:
    """Indexes; prints what was done."""
    run, *files, location = call.words
    result = index(run, files, location, options=call.options, progress=_line_progress())
    return Output({"index": location, **result.to_dict()}, f"{location}: {result}")


def _line_progress() -> Progress:
    """A line on stderr every ten seconds."""
    shown = time.monotonic()

    def show(done: int, total: int, passages: int) -> None:
        nonlocal shown
        if time.monotonic() - shown >= 10:
            shown = time.monotonic()
            line = f"{done:,} of {total:,} documents, {passages:,} passages"
            print(line, file=sys.stderr, flush=True)

    return show


INDEX = Command(
    about="An index of documents for `llmjax search`: their passages, words and embeddings. FILES "
    "are text, Markdown, HTML and PDF files, or folders of them; only new and changed ones are "
    "embedded, and those that are no more leave the index. INDEX is one SQLite file, or with "
    "--store a schema in PostgreSQL.",
    positionals=("RUN", "FILES...", "INDEX"),
    options=IndexOptions,
    run=run,
)
