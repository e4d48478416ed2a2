"""`llmjax import`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from llmjax.cli.options import ONE_DEVICE, devices
from llmjax.cli.verb import Verb, print_json
from llmjax.parallel.mesh import MeshConfig


@dataclass(frozen=True)
class Options:
    """Options of import."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What parameters are stored in; none: as in the source (quantised ones: float32)."""
    base: str | None = None
    """The run of the model that SOURCE, a folder of PEFT's, has adapters for."""
    mesh: MeshConfig = field(default_factory=lambda: ONE_DEVICE)
    """Devices that each read their share of the model."""


VERB = Verb(
    usage="llmjax import SOURCE RUN [--option value ...]",
    about="Makes a run folder of a published model. SOURCE is a Hugging Face folder, a name on its "
    "hub (owner/name, owner/name@revision), a .gguf file, or sample:smollm2-135m, sample:minilm; "
    "with --base, a folder of adapters that PEFT saved.",
    names=("SOURCE", "RUN"),
    options=Options(),
)


def main(argv: Sequence[str]) -> int:
    """Imports; prints what the run folder holds, or JSON."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    from llmjax.convert.importing import import_model, summary
    from llmjax.convert.peft.reading import import_adapter

    (source, run), options = parsed.positionals, parsed.options
    if options.base is None:
        made = import_model(source, run, dtype=options.dtype, mesh=devices(options.mesh))
    else:
        made = import_adapter(source, run, options.base, dtype=options.dtype)
    found = summary(made)
    if "json" in parsed.flags:
        print_json(found)
        return 0
    print(
        f"{found['run']}: {found['family']}, {found['parameters']:,} parameters, {found['dtype']}, "
        f"{found['bytes'] / 1e6:,.1f} MB\ngo on with: {found['next']}"
    )
    return 0
