"""`llmjax generate`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.cli.options import DecodingOptions, ModelOptions
from llmjax.cli.verb import Verb, print_json


@dataclass(frozen=True)
class _Prompts(DecodingOptions):
    """What is continued, and how."""

    prompt: tuple[str, ...] = ()
    """What to continue; give it again for more. Without any, a text from nothing."""
    file: str | None = None
    """More prompts, one a line; - for standard input; .jsonl for prompts of several lines, as JSON
    strings or objects with "prompt"."""


@dataclass(frozen=True)
class Options(ModelOptions, _Prompts):
    """Options of generate: those of decoding, and these."""


VERB = Verb(
    usage="llmjax generate RUN --prompt TEXT [--prompt TEXT ...] [--option value ...]",
    about="Continues prompts. Text is written to stdout as it comes; the same seed writes the same "
    "text, whatever other prompts there are.",
    names=("RUN",),
    options=Options(),
    single=("prompt", "stop"),
)


def main(argv: Sequence[str]) -> int:
    """Generates; streams text, or prints JSON."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    from llmjax.inference.generate import generate
    from llmjax.parallel.compilation import enable_compilation_cache

    enable_compilation_cache()

    options, run = parsed.options, parsed.positionals[0]
    decoding = options.decoding()
    as_json = "json" in parsed.flags
    found = generate(
        run,
        options.prompt,
        decoding,
        file=options.file,
        **options.loading(),
        out=None if as_json else sys.stdout,
    )
    if as_json:
        completions = [
            {
                "prompt": completion.prompt,
                "text": completion.text,
                "finish": completion.finish,
                "tokens": len(completion.tokens),
                "nats": sum(completion.nats),
            }
            for completion in found
        ]
        print_json({"run": run, "completions": completions})
    return 0
