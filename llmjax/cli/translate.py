"""`llmjax translate`."""

import sys
from dataclasses import asdict

from llmjax.cli.command import Call, Command, Output
from llmjax.errors import UserError
from llmjax.translation.translate import TranslateOptions, open_translator, translate


def run(call: Call[TranslateOptions]) -> Output | None:
    """Translates a file, or lines as they come."""
    run, source, out = call.words
    if "-" not in (source, out):
        result = translate(run, source, out, options=call.options)
        text = f"{out}: {result.texts:,} texts, {result.sentences:,} sentences"
        if result.missing:
            text += f", fixed terms missing: {result.missing:,}"
        return Output({"out": out, **asdict(result)}, text)
    if source != out:
        raise UserError("-", "is for both IN and OUT, or neither", "write - - for lines")
    translator = open_translator(run, options=call.options)
    try:
        for line in translator.lines(sys.stdin):
            print(line, end="", flush=True)
    except UnicodeDecodeError as error:
        raise UserError("standard input", f"is not UTF-8: {error.reason}") from error
    return None


TRANSLATE = Command(
    about="Documents translated by a run with a sequence task, sentence by sentence, their "
    "structure kept: text, Markdown, HTML, subtitles (.srt), Word (.docx). With - for IN and OUT, "
    "lines are translated as they come.",
    positionals=("RUN", "IN", "OUT"),
    options=TranslateOptions,
    run=run,
)
