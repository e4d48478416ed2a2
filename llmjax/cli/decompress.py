"""`llmjax decompress`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from llmjax.cli.verb import Verb, print_json


@dataclass(frozen=True)
class Options:
    """Options of decompress."""

    overwrite: bool = False
    """Replace OUT where it exists and is a file."""


VERB = Verb(
    usage="llmjax decompress RUN IN OUT [--overwrite]",
    about="Makes of an archive the very bytes that it was made of, or says what is wrong and "
    "writes nothing. RUN is the run that compressed it, or a copy; - stands for standard input "
    "and output; of a folder's archive OUT is a new folder.",
    names=("RUN", "IN", "OUT"),
    options=Options(),
)


def main(argv: Sequence[str]) -> int:
    """Decompresses; prints what was written, to stderr where that went to stdout."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    import sys

    from llmjax.compression.decompressing import decompress
    from llmjax.compression.progress import end_line, line_progress
    from llmjax.compression.visible import visible
    from llmjax.parallel.compilation import enable_compilation_cache

    enable_compilation_cache()

    run, source, target = parsed.positionals
    try:
        found = decompress(
            run, source, target, overwrite=parsed.options.overwrite, progress=line_progress()
        )
    finally:
        end_line()
    if "json" in parsed.flags and target != "-":
        print_json(asdict(found))
        return 0
    files = f" in {found.files:,} files" if found.files != 1 else ""
    print(
        f"{visible(found.target)}: {found.bytes:,} bytes{files}, {found.seconds:.1f} s, "
        f"{found.bytes / 1e3 / found.seconds:.2f} KB/s",
        file=sys.stderr if target == "-" else sys.stdout,
    )
    return 0
