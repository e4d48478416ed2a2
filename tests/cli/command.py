"""Command lines in this process, and in one of their own."""

import subprocess
import sys

from llmjax import cli


def run(capsys, *argv: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout, lines of stderr."""
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def process(*argv: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "llmjax", *argv], capture_output=True, text=True, **options
    )


HOMES = {
    "evaluate": "llmjax.evaluation.evaluate",
    "generate": "llmjax.inference.generate",
    "report": "llmjax.reporting.report",
    "train": "llmjax.training",
}
"""Function -> the module that a command takes it from."""


def stub(monkeypatch, name: str, function) -> None:
    """Puts another function in the place of a command's."""
    monkeypatch.setattr(f"{HOMES[name]}.{name}", function)
