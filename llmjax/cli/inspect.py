"""`llmjax inspect`."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.cli.verb import Verb, print_json


@dataclass(frozen=True)
class Options:
    """Inspect has no options of its own."""


VERB = Verb(
    usage="llmjax inspect FILE",
    about="Shows what an archive's header says, and checks its checksum; needs no model.",
    names=("FILE",),
    options=Options(),
)


def main(argv: Sequence[str]) -> int:
    """Prints the header as lines, or JSON."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    from llmjax.compression.decompress import inspect
    from llmjax.errors import printable

    found = inspect(parsed.positionals[0])
    if "json" in parsed.flags:
        print_json(found)
        return 0
    files = found.pop("files", None)
    for name, value in found.items():
        text = f"{value:04o}" if name == "mode" and value is not None else _shown(value)
        print(f"  {printable(name.replace('_', ' ')):15}{printable(text)}")
    for name, mode, _, size in files or ():
        print(f"  {mode:04o} {size if size >= 0 else 'folder':>12} {printable(name)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item not in ("", None))
    return f"{value:,}" if type(value) is int else str(value)
