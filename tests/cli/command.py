"""Command lines in this process, and in one of their own."""

import subprocess
import sys
from dataclasses import replace

from llmjax.cli.main import find_command, main
from llmjax.cli.registry import COMMANDS


def run(capsys, *argv: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout, lines of stderr."""
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def process(*argv: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "llmjax", *argv], capture_output=True, text=True, **options
    )


def stub(monkeypatch, name: str, function) -> None:
    """Puts another function in the place of the one that a command of its name calls."""
    monkeypatch.setattr(f"llmjax.cli.{name}.{name}", function)


def replace_run(monkeypatch, name: str, run) -> None:
    """Puts another `run` in the place of a command's."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    command = replace(find_command(name), run=run)
    monkeypatch.setattr(f"{module}.{attribute}", command)
