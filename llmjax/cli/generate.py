"""`llmjax generate`."""

import sys

from llmjax.cli.command import Call, Command, Output
from llmjax.decoding.config import decoding_problems
from llmjax.inference.generate import GenerateOptions, generate


def run(call: Call[GenerateOptions]) -> Output | None:
    """Generates; streams text, or prints JSON."""
    out = None if call.as_json else sys.stdout
    completions = [
        {
            "prompt": completion.prompt,
            "text": completion.text,
            "finish": completion.finish,
            "tokens": len(completion.tokens),
            "nats": sum(completion.nats),
        }
        for completion in generate(call.words[0], options=call.options, out=out)
    ]
    return Output({"run": call.words[0], "completions": completions}, "") if call.as_json else None


GENERATE = Command(
    about="Continues prompts. Text is streamed to stdout; the same seed gives the same text, "
    "regardless of the other prompts.",
    positionals=("RUN",),
    usage="--prompt TEXT [--prompt TEXT ...] [--option value ...]",
    options=GenerateOptions,
    run=run,
    single=("prompt", "stop"),
    check=decoding_problems,
)
