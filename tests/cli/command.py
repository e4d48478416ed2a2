"""Command lines in this process, and in one of their own."""

import subprocess
import sys
import types

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


def stub(monkeypatch, module: str, function) -> None:
    """Puts a module with one function of its own name in the place of a verb's."""
    name = module.rpartition(".")[2]
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{name: function}))
