"""`llmjax inspect`."""

from collections.abc import Iterator, Mapping
from typing import Any

from llmjax.cli.command import Call, Command, NoOptions, Output
from llmjax.compression.decompress import inspect
from llmjax.errors import printable


def run(call: Call[NoOptions]) -> Output:
    """Prints the header as lines, or JSON."""
    header = inspect(call.words[0])
    return Output(header, "\n".join(_lines(header)))


def _lines(header: Mapping[str, Any]) -> Iterator[str]:
    for name, value in header.items():
        if name != "files":
            text = f"{value:04o}" if name == "mode" and value is not None else _shown(value)
            yield f"  {printable(name.replace('_', ' ')):18}{printable(text)}"
    for name, mode, _, size in header.get("files") or ():
        yield f"  {mode:04o} {size if size >= 0 else 'folder':>12} {printable(name)}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item not in ("", None))
    return f"{value:,}" if type(value) is int else str(value)


INSPECT = Command(
    about="Shows an archive's header and verifies its checksum, without the model.",
    positionals=("FILE",),
    usage="",
    options=NoOptions,
    run=run,
    compiles=False,
)
