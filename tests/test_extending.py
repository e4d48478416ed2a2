"""The worked examples of docs/extending.md, each applied to a copy of the package and run.

A section's files are its blocks under "New file `path`"; a line under "One line in `path`" goes
behind the last entry of that registry. Lines of a console block that begin with "$ " are run, in
order, in an empty folder; the other lines must appear in what they print.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.documentation

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(New file|One line in) `([^`]+)`[^\n]*\n+```\w*\n(.*?)^```", re.M | re.S)
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.M | re.S)
ENTRY = re.compile(r'^ +"[\w-]+": (Entry\()?"llmjax\.[\w.]+:\w+".*,$')


class Example(NamedTuple):
    title: str
    files: dict[str, str]
    lines: dict[str, str]
    commands: list[tuple[str, list[str]]]
    """Each with the lines that it must print."""


def examples() -> list[Example]:
    """One for every section that has commands."""
    result = []
    for section in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        blocks = BLOCK.findall(section)
        commands: list[tuple[str, list[str]]] = []
        for line in "".join(CONSOLE.findall(section)).splitlines():
            if line.startswith("$ "):
                commands.append((line.removeprefix("$ "), []))
            elif line.strip():
                commands[-1][1].append(line.strip())
        if commands:
            files = {path: text for kind, path, text in blocks if kind == "New file"}
            lines = {path: text for kind, path, text in blocks if kind == "One line in"}
            result.append(Example(section.splitlines()[0], files, lines, commands))
    return result


def add_line(registry: Path, line: str) -> None:
    """Puts a line behind a registry's last entry."""
    lines = registry.read_text(encoding="utf-8").splitlines(keepends=True)
    last = max(number for number, text in enumerate(lines) if ENTRY.match(text.rstrip()))
    registry.write_text("".join([*lines[: last + 1], line, *lines[last + 1 :]]), encoding="utf-8")


def test_the_page_shows_each_kind_of_extension():
    titles = {example.title for example in examples()}
    assert titles == {"A model family", "An objective", "A task", "An optimizer", "A command"}


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.title)
def test_one_new_file_and_one_line_each(example):
    inside = [path for path in example.files if path.startswith("llmjax/")]
    assert len(inside) == 1
    assert not (ROOT / inside[0]).exists()
    assert len(example.lines) == 1
    assert all(text.count("\n") == 1 for text in example.lines.values())


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.title)
def test_the_example_runs(example, tmp_path):
    copy, folder = tmp_path / "copy", tmp_path / "work"
    folder.mkdir()
    shutil.copytree(ROOT / "llmjax", copy / "llmjax")
    shutil.copytree(ROOT / "configs", copy / "configs")
    for path, text in example.files.items():
        target = (copy if path.startswith("llmjax/") else folder) / path
        target.write_text(text, encoding="utf-8")
    for path, line in example.lines.items():
        add_line(copy / path, line)
    known = os.environ | {"PYTHONPATH": str(copy), "LLMJAX_CACHE": str(tmp_path / "cache")}
    known["XLA_FLAGS"] = re.sub(
        r"--xla_force_host_platform_device_count=\d+", "", known["XLA_FLAGS"]
    )
    for command, expected in example.commands:
        program, *words = shlex.split(command)
        start = {"llmjax": [sys.executable, "-m", "llmjax"], "python": [sys.executable]}[program]
        process = subprocess.run(
            [*start, *words], cwd=folder, env=known, capture_output=True, text=True, check=False
        )
        output = process.stdout + process.stderr
        assert process.returncode == 0, f"{command}\n{output}"
        for line in expected:
            assert line in output, f"{command}\n{output}"
