"""`llmjax import`."""

from dataclasses import dataclass

from llmjax.cli.command import Call, Command, Output
from llmjax.convert.importing import ImportOptions, import_model, summary
from llmjax.convert.peft.reading import import_adapter
from llmjax.parallel.memory import LOADING


@dataclass(frozen=True)
class Options(ImportOptions):
    """Options of import: those of import_model, and what import_adapter takes."""

    base: str | None = None
    """The run of the model that SOURCE, a folder of PEFT's, has adapters for."""


def run(call: Call[Options]) -> Output:
    """Imports; prints what the run folder holds."""
    (source, target), options = call.words, call.options
    if options.base is None:
        made = import_model(source, target, options=options)
    else:
        made = import_adapter(source, target, options.base, dtype=options.dtype)
    imported = summary(made)
    text = (
        f"{imported['run']}: {imported['family']}, {imported['parameters']:,} parameters, "
        f"{imported['dtype']}, {imported['bytes'] / 1e6:,.1f} MB\nnext: {imported['next']}"
    )
    return Output(imported, text)


IMPORT = Command(
    about="Makes a run folder of a published model. SOURCE is a Hugging Face folder, a name on its "
    "hub (owner/name, owner/name@revision), a .gguf file, or sample:smollm2-135m, sample:minilm; "
    "with --base, a folder of adapters that PEFT saved.",
    positionals=("SOURCE", "RUN"),
    options=Options,
    run=run,
    compiles=False,
    memory=LOADING,
)
