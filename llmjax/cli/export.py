"""`llmjax export`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmjax.cli.verb import Verb, print_json
from llmjax.run.config.build import ConfigError


@dataclass(frozen=True)
class Options:
    """Options of export."""

    to: Literal["hf", "peft", "gguf", "stablehlo"] = "hf"
    """hf: a folder for Transformers, vLLM, SGLang, TGI; peft: the adapters alone; gguf: a file for
    llama.cpp and its kin; stablehlo: programs that need only jax and numpy. Adapters are merged in
    all but peft."""
    dtype: Literal["float32", "bfloat16", "float16", "q8_0"] | None = None
    """Of the weights; none: as they are stored. q8_0 in gguf alone."""
    step: int | None = None
    """Which checkpoint; none: the best, of a run that goes by a metric, else the newest complete
    one."""
    task: str | None = None
    """hf, peft: the task whose head is written, where a run has several."""
    max_shard_bytes: int | None = None
    """hf: bytes of tensors in a file, above which there are several; none: 5,000,000,000."""
    platforms: tuple[str, ...] = ()
    """stablehlo: of cpu, cuda, tpu; without any, all that the model can be compiled for."""


VERB = Verb(
    usage="llmjax export RUN OUT [--to hf|peft|gguf|stablehlo] [--option value ...]",
    about="Writes a run's model for other programs, and reads back what it wrote. OUT must not "
    "exist.",
    names=("RUN", "OUT"),
    options=Options(),
)

ONLY = {"max_shard_bytes": ("hf",), "task": ("hf", "peft"), "platforms": ("stablehlo",)}


def main(argv: Sequence[str]) -> int:
    """Exports; prints what was written, or JSON."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    options = parsed.options
    more: dict[str, Any] = {
        name: getattr(options, name) for name in ONLY if getattr(options, name) not in (None, ())
    }
    if wrong := [
        f"--{name}: only with --to {' or '.join(ONLY[name])}"
        for name in more
        if options.to not in ONLY[name]
    ]:
        raise ConfigError(wrong)
    from llmjax.convert.exporting import export, summary

    run, out = parsed.positionals
    export(run, out, to=options.to, dtype=options.dtype, step=options.step, **more)
    found = summary(out, options.to)
    if "json" in parsed.flags:
        print_json(found)
        return 0
    about = ", ".join(str(found[name]) for name in ("family", "dtype") if found.get(name))
    print(f"{out}: {options.to}{', ' if about else ''}{about}, {found['bytes'] / 1e6:,.1f} MB")
    for name in found["files"]:
        print(f"  {name}")
    if found.get("next"):
        print(f"go on with: {found['next']}")
    return 0
