"""Classical compressors: sizes are those of real archives that decompress."""

import random
import shutil
import subprocess

import pytest
from rich.console import Console

from llmjax.errors import UserError
from llmjax.evaluation.baselines import (
    COMPRESSORS,
    Baseline,
    comparison_table,
    measure,
    measure_parts,
)

WORDS = ["the", "model", "reads", "a", "line", "and", "predicts", "what", "comes", "after", "it"]
TEXT = " ".join(random.Random(0).choices(WORDS, k=4000)).encode()


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: c.name)
@pytest.mark.parametrize("text", [TEXT, b"x", bytes(range(256)) * 3], ids=["words", "one", "all"])
def test_every_archive_gives_the_text_back(compressor, text):
    assert compressor.decompress(compressor.compress(text)) == text


def test_figures_are_those_of_the_archives():
    figures = list(measure(TEXT))
    assert [f.name for f in figures] == ["xz -9e", "zstd -19", "brotli 11", "bzip2 -9"]
    for figure, compressor in zip(figures, COMPRESSORS, strict=True):
        archive = compressor.compress(TEXT)
        assert figure.compressed_bytes == len(archive)
        assert figure.bits_per_byte == pytest.approx(8 * len(archive) / len(TEXT))
        assert 0 < figure.bits_per_byte < 8
        assert figure.seconds > 0


@pytest.mark.parametrize(
    ("name", "command"),
    [("xz -9e", ["xz", "-9e", "-c"]), ("bzip2 -9", ["bzip2", "-9", "-c"])],
)
def test_library_and_command_line_agree(name, command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    archive = subprocess.run(command, input=TEXT, capture_output=True, check=True).stdout
    figure = next(f for f in measure(TEXT) if f.name == name)
    assert figure.compressed_bytes == len(archive)


def test_a_text_in_parts_comes_to_the_same():
    parts = [TEXT[start : start + 1000] for start in range(0, len(TEXT), 1000)]
    full, result = measure(TEXT), measure_parts(lambda: parts, len(TEXT))
    for expected, actual in zip(full, result, strict=True):
        assert actual.name == expected.name
        assert actual.original_bytes == len(TEXT)
        assert actual.compressed_bytes == pytest.approx(expected.compressed_bytes, abs=8)


def test_empty_text_is_refused():
    with pytest.raises(UserError, match="empty"):
        list(measure(b""))
    with pytest.raises(UserError, match="empty"):
        comparison_table(1.0, b"")


def rendered(table) -> list[str]:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


def test_table_is_sorted_and_relative_to_xz():
    baselines = [Baseline("xz -9e", 300, 1000, 0.1), Baseline("bzip2 -9", 250, 1000, 0.1)]
    lines = rendered(comparison_table(1.8, baselines))
    line_of = {
        name: n
        for n, line in enumerate(lines)
        for name in ("llmjax", "xz", "bzip2")
        if line.strip().startswith(f"{name} ")
    }
    assert line_of["llmjax"] < line_of["bzip2"] < line_of["xz"]
    actual = next(line for line in lines if "llmjax" in line)
    assert "1.8000" in actual
    assert "225" in actual
    assert "\N{MINUS SIGN}25.0%" in actual
    assert "1,000 bytes" in lines[0]
    assert "weights not counted" in lines[-1]


def test_table_says_so_when_the_model_loses():
    baselines = [Baseline("xz -9e", 100, 1000, 0.1)]
    lines = rendered(comparison_table(1.2, baselines))
    assert "+50.0%" in next(line for line in lines if "llmjax" in line)


def test_table_measures_bytes_itself():
    lines = rendered(comparison_table(2.0, TEXT))
    for compressor in COMPRESSORS:
        assert any(compressor.name in line for line in lines)
