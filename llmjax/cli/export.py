"""`llmjax export`."""

from llmjax.cli.command import Call, Command, Output
from llmjax.convert.exporting import ExportOptions, export, summary
from llmjax.parallel.memory import LOADING


def run(call: Call[ExportOptions]) -> Output:
    """Exports; prints what was written."""
    name, out = call.words
    export(name, out, options=call.options)
    written = summary(out, call.options.to)
    about = ", ".join(str(written[key]) for key in ("family", "dtype") if written.get(key))
    lines = [
        f"{out}: {', '.join(filter(None, [call.options.to, about]))}, "
        f"{written['bytes'] / 1e6:,.1f} MB",
        *(f"  {file}" for file in written["files"]),
        *([f"next: {written['next']}"] if written.get("next") else []),
    ]
    return Output(written, "\n".join(lines))


EXPORT = Command(
    about="Writes a run's model for other programs, and reads back what it wrote. OUT must not "
    "exist.",
    positionals=("RUN", "OUT"),
    usage="[--to hf|peft|gguf|stablehlo] [--option value ...]",
    options=ExportOptions,
    run=run,
    compiles=False,
    memory=LOADING,
)
