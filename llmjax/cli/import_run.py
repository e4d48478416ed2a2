"""`llmjax import`."""

from dataclasses import dataclass

from llmjax.cli.command import Call, Command, Output
from llmjax.convert.importing import ImportOptions, import_model, summary
from llmjax.convert.peft.reading import import_adapter
from llmjax.parallel.memory import LOADING


@dataclass(frozen=True)
class Options(ImportOptions):
    """Options of import: those of import_model, and the base model for import_adapter."""

    base: str | None = None
    """The run of the base model, if SOURCE is a folder of PEFT adapters."""


def run(call: Call[Options]) -> Output:
    """Imports; prints a summary of the run."""
    (source, target), options = call.words, call.options
    if options.base is None:
        imported_run = import_model(source, target, options=options)
    else:
        imported_run = import_adapter(source, target, options.base, dtype=options.dtype)
    imported = summary(imported_run)
    text = (
        f"{imported['run']}: {imported['family']}, {imported['parameters']:,} parameters, "
        f"{imported['dtype']}, {imported['bytes'] / 1e6:,.1f} MB on disk\nnext: {imported['next']}"
    )
    return Output(imported, text)


IMPORT = Command(
    about="Converts a published model to a run folder. SOURCE is a Hugging Face folder, a name on "
    "its hub (owner/name, owner/name@revision), a .gguf file, or sample:smollm2-135m, "
    "sample:minilm; with --base, a folder of adapters saved by PEFT.",
    positionals=("SOURCE", "RUN"),
    options=Options,
    run=run,
    compiles=False,
    memory=LOADING,
)
