"""`llmjax decompress`."""

from dataclasses import asdict

from llmjax.cli.command import Call, Command, Output
from llmjax.compression.decompress import DecompressOptions, decompress
from llmjax.compression.progress import end_line, line_progress
from llmjax.errors import printable


def run(call: Call[DecompressOptions]) -> Output:
    """Decompresses; prints the target and its size, to stderr if the bytes go to stdout."""
    try:
        result = decompress(*call.words, options=call.options, progress=line_progress())
    finally:
        end_line()
    files = f" in {result.files:,} files" if result.files != 1 else ""
    text = (
        f"{printable(result.target)}: {result.bytes:,} bytes{files}, {result.seconds:.1f} s, "
        f"{result.bytes / 1e3 / result.seconds:.2f} KB/s"
    )
    return Output(asdict(result), text, is_log=call.words[2] == "-")


DECOMPRESS = Command(
    about="Restores the bytes of an archive, or reports what is wrong and writes nothing. RUN is "
    "the run that compressed it, or a copy; - stands for standard input and output; for a folder's "
    "archive OUT is a new folder.",
    positionals=("RUN", "IN", "OUT"),
    usage="[--overwrite]",
    options=DecompressOptions,
    run=run,
)
