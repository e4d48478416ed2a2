"""`llmjax search`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.cli.command import Call, Command, Output
from llmjax.cli.terminal import WordWrap, terminal_width
from llmjax.retrieval.answer import NOTHING_FOUND, answer
from llmjax.retrieval.search import Hit, SearchOptions, search
from llmjax.run.config.options import make_options

SHOWN = 300
"""Characters shown of a passage."""


@dataclass(frozen=True)
class SearchCommandOptions(SearchOptions):
    """Options of the command."""

    answer: str | None = None
    """A chat run that answers from the passages, with the numbers of its sources."""


def run(call: Call[SearchCommandOptions]) -> Output | None:
    """Searches; prints the passages, and an answer if a chat run is to give one."""
    (location, question), chat_run = call.words, call.options.answer
    hits = search(location, question, options=make_options(SearchOptions, call.options, {}))
    found = {"question": question, "hits": [hit.to_dict() for hit in hits]}
    if chat_run is None:
        return Output(found, "\n\n".join(map(_shown, hits)) or NOTHING_FOUND)
    if call.as_json:
        return Output({**found, "answer": "".join(answer(chat_run, question, hits))}, "")
    _print_answer(chat_run, question, hits)
    return None


def _print_answer(run: str, question: str, hits: Sequence[Hit]) -> None:
    """Streams the answer; then lists its sources."""
    wrapped = WordWrap(lambda text: print(text, end="", flush=True), terminal_width())
    for piece in answer(run, question, hits):
        wrapped.feed(piece)
    wrapped.flush()
    print()
    for hit in hits:
        print(f"[{hit.number}] {hit.source}{f'  {hit.heading}' if hit.heading else ''}")
    sys.stdout.flush()


def _shown(hit: Hit) -> str:
    """A passage, shortened, with its source."""
    text = " ".join(hit.text.split())
    cut = text if len(text) <= SHOWN else f"{text[: SHOWN - 3].rstrip()}..."
    similarity = "" if hit.similarity is None else f"  similarity {hit.similarity:.2f}"
    heading = f"  {hit.heading}" if hit.heading else ""
    return f"[{hit.number}] {hit.source}{heading}{similarity}\n    {cut}"


SEARCH = Command(
    about="The passages of an index that answer a question, by their words and by their meaning, "
    "with their sources. With --answer RUN, a chat run answers from them.",
    positionals=("INDEX", "QUESTION"),
    usage="[--limit N] [--answer RUN] [--option value ...]",
    options=SearchCommandOptions,
    run=run,
)
