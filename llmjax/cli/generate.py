"""`llmjax generate`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from llmjax.cli.evaluate import ONE_DEVICE
from llmjax.cli.verb import Verb, print_json
from llmjax.config.build import ConfigError
from llmjax.config.fields import flag
from llmjax.decoding.config import DecodingConfig, decoding_problems
from llmjax.mesh import MeshConfig
from llmjax.model.config import Dtype


@dataclass(frozen=True)
class Options(DecodingConfig):
    """Options of generate: those of decoding, and these."""

    prompt: tuple[str, ...] = ()
    """What to continue; give it again for more. Without any, a text from nothing."""
    file: str | None = None
    """More prompts, one a line; - for standard input; .jsonl for prompts of several lines, as
    JSON strings."""
    step: int | None = None
    """Which checkpoint; none: the newest whole one."""
    dtype: Dtype | None = None
    """What parameters are held and computed in; none: held in float32, computed as trained."""
    mesh: MeshConfig = field(default_factory=lambda: ONE_DEVICE)
    """The devices that share the model."""

    def decoding(self) -> DecodingConfig:
        """The fields of decoding alone."""
        return DecodingConfig(**{f.name: getattr(self, f.name) for f in fields(DecodingConfig)})


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
    from llmjax.generate import generate
    from llmjax.programs import keep_programs

    keep_programs()

    options, run = parsed.options, parsed.positionals[0]
    if problems := decoding_problems(options.decoding()):
        named = (problem.removeprefix("decoding.").partition(":") for problem in problems)
        raise ConfigError([f"{flag((name,))}:{said}" for name, _, said in named])
    as_json = "json" in parsed.flags
    found = generate(
        run,
        options.prompt,
        options.decoding(),
        file=options.file,
        step=options.step,
        dtype=options.dtype,
        mesh=None if options.mesh == ONE_DEVICE else options.mesh,
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
