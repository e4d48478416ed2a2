"""`llmjax compress`."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.cli.verb import Verb, print_json
from llmjax.model.compute import Dtype


@dataclass(frozen=True)
class Options:
    """Options of compress."""

    lanes: int | None = None
    """Parts that are coded side by side; none: by the input's size. More are faster, and each
    begins without context."""
    context: int | None = None
    """Tokens that a token is predicted from at most; none: 512, or what the model allows."""
    stride: int | None = None
    """Tokens from one window to the next; none: 128 less than the context, or half of it."""
    step: int | None = None
    """Which checkpoint; none: the newest complete one."""
    dtype: Dtype = "bfloat16"
    """What parameters are held and computed in."""
    verify: bool = True
    """Decode the archive in a process of its own before it gets its name (also --no-verify)."""
    compare: bool = True
    """Run xz, zstd, brotli (up to 16 MiB, as it takes minutes) and bzip2 on the same input."""
    fallback: bool = True
    """Let zstd have, or just store, what the model would expand."""
    overwrite: bool = False
    """Replace OUT where it exists and is a file."""
    passage: bool = False
    """Keep the first 2,000 tokens as text in RUN/compression.json, with what each cost, so that
    the report can show what the model found surprising."""


VERB = Verb(
    usage="llmjax compress RUN IN OUT [--option value ...]",
    about="Lossless compression by a run's model. IN is a file, a folder or - for standard input, "
    "of any bytes; OUT the archive, or -. Only the same run, on the same kind of machine, "
    "decompresses it. What it came to is kept in RUN/compression.json and shown by `llmjax report "
    "RUN`.",
    names=("RUN", "IN", "OUT"),
    options=Options(),
)


def main(argv: Sequence[str]) -> int:
    """Compresses; prints the figures, to stderr where the archive goes to stdout."""
    parsed = VERB.parse(["--verify=no" if word == "--no-verify" else word for word in argv])
    if parsed is None:
        return 0
    import sys

    from llmjax.compression.compressing import compress
    from llmjax.compression.progress import end_line, line_progress
    from llmjax.parallel.compilation import enable_compilation_cache

    enable_compilation_cache()

    options, (run, source, target) = parsed.options, parsed.positionals
    try:
        found = compress(
            run,
            source,
            target,
            lanes=options.lanes,
            context=options.context,
            stride=options.stride,
            step=options.step,
            dtype=options.dtype,
            verify=options.verify,
            compare=options.compare,
            fallback=options.fallback,
            overwrite=options.overwrite,
            passage=options.passage,
            progress=line_progress(),
        )
    finally:
        end_line()
    if target == "-":
        print(found, file=sys.stderr)
    elif "json" in parsed.flags:
        print_json(found.to_dict())
    else:
        print(found)
    return 0
