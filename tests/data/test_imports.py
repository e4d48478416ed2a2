"""Importing configs is cheap; progress goes to stderr."""

import dataclasses
import io
import subprocess
import sys

import pytest

from llmjax.data import progress
from llmjax.data.progress import terminal_progress
from llmjax.data.tables.table import TABLES
from llmjax.data.text.filters import FILTERS
from llmjax.data.text.source import SOURCES
from llmjax.data.tokenizers.config import TOKENIZERS

HEAVY = "jax grain tensorflow_datasets tensorflow sentencepiece tokenizers pyarrow datasets numpy"


@pytest.mark.parametrize(
    ("modules", "allowed"),
    [
        ("llmjax.data.config, llmjax.data.text.hub, llmjax.data.tables.tfds", ""),
        ("llmjax.data.text.encoding", "numpy"),  # what every tokenizing process starts with
        ("llmjax.data.text.corpus", "numpy"),
    ],
)
def test_imports_are_light(modules, allowed):
    code = f"import sys, {modules}; print(*sorted(set({HEAVY.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == allowed


@pytest.mark.parametrize("registry", [FILTERS, SOURCES, TABLES, TOKENIZERS], ids=lambda r: r.noun)
def test_everything_registered_is_there(registry):
    for kind, variant in registry.items():
        assert next(f.default for f in dataclasses.fields(variant) if f.name == "kind") == kind


def test_progress_is_lines_where_there_is_no_terminal(monkeypatch, capsys):
    clock = iter([0.0, 5.0, 10.0, 10.0, 11.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with terminal_progress() as show:
        show("Tokenizing", 1_000_000, 4_000_000)
        show("Tokenizing", 2_000_000, 4_000_000)
        show("Tokenizing", 3_000_000, None)
    assert capsys.readouterr().err == "Tokenizing: 2.0 MB (50 %)\n"


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with terminal_progress() as show:
        show("Tokenizing", 1_000_000, 4_000_000)
        show("Tokenizing", 4_000_000, 4_000_000)
    assert "Tokenizing" in terminal.getvalue()
