"""`llmjax compress`."""

from llmjax.cli.command import Call, Command, Output
from llmjax.compression.compress import CompressOptions, compress
from llmjax.compression.progress import end_line, line_progress


def run(call: Call[CompressOptions]) -> Output:
    """Compresses; prints the sizes, to stderr if the archive goes to stdout."""
    try:
        result = compress(*call.words, options=call.options, progress=line_progress())
    finally:
        end_line()
    return Output(result.to_dict(), result, is_log=call.words[2] == "-")


COMPRESS = Command(
    about="Lossless compression by a run's model. IN is a file, a folder or - for standard input, "
    "of any bytes; OUT the archive, or -. Only the same run, on the same kind of machine, "
    "decompresses it. The results are stored in RUN/compression.json for `llmjax report RUN`.",
    positionals=("RUN", "IN", "OUT"),
    options=CompressOptions,
    run=run,
)
