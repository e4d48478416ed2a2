"""`llmjax presets`."""

import ast
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmjax.cli.command import Call, Command, NoOptions, Output
from llmjax.cli.terminal import terminal_width
from llmjax.run.config.files import presets

HEADER = re.compile(r"(Start|Data|Command|Hardware|Time|Results): +(.*?)(?=\n\S|\Z)", re.S)
INDENT = " " * 4


def run(call: Call[NoOptions]) -> Output:
    """Lists the presets with what their files say of themselves."""
    listed = [{"name": name, **describe(path)} for name, path in presets().items()]
    return Output({"presets": listed}, "\n".join(_lines(listed)))


def describe(path: Path) -> dict[str, str]:
    """The docstring of a config file: "about", its first paragraph, and its header fields in lower
    case.

    The file is parsed, not run.
    """
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    about, _, header = text.partition("\n\n")
    fields = {name.lower(): " ".join(value.split()) for name, value in HEADER.findall(header)}
    return {"path": str(path), "about": " ".join(about.split()), **fields}


def _lines(listed: Sequence[Mapping[str, str]]) -> list[str]:
    width = terminal_width()
    lines = []
    for preset in listed:
        needs = "; ".join(preset[key] for key in ("hardware", "time") if key in preset)
        texts = [preset["about"], f"Needs {needs}." if needs else ""]
        lines.append(preset["name"])
        for text in filter(None, texts):
            lines += textwrap.wrap(text, width, initial_indent=INDENT, subsequent_indent=INDENT)
    return [
        *lines,
        "",
        "llmjax train PRESET starts one; llmjax train PRESET --help lists its fields.",
    ]


PRESETS = Command(
    about="Lists the presets of `llmjax train`: what each trains, on what hardware, in what time.",
    positionals=(),
    usage="",
    options=NoOptions,
    run=run,
    compiles=False,
)
