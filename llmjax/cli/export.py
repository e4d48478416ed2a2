"""`llmjax export`."""

from llmjax.cli.command import Call, Command, Output
from llmjax.convert.exporting import ExportOptions, export, summary
from llmjax.parallel.memory import LOADING


def run(call: Call[ExportOptions]) -> Output:
    """Exports; prints format, size and files."""
    name, out = call.words
    export(name, out, options=call.options)
    exported = summary(out, call.options.to)
    about = ", ".join(str(exported[key]) for key in ("family", "dtype") if exported.get(key))
    lines = [
        f"{out}: {', '.join(filter(None, [call.options.to, about]))}, "
        f"{exported['bytes'] / 1e6:,.1f} MB",
        *(f"  {file}" for file in exported["files"]),
        *([f"next: {exported['next']}"] if exported.get("next") else []),
    ]
    return Output(exported, "\n".join(lines))


EXPORT = Command(
    about="Writes a run's model for other programs, and verifies it by reading it back. OUT must "
    "not exist.",
    positionals=("RUN", "OUT"),
    usage="[--to hf|peft|gguf|stablehlo] [--option value ...]",
    options=ExportOptions,
    run=run,
    compiles=False,
    memory=LOADING,
)
