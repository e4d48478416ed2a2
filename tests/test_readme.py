"""What the README and the Makefile tell people to type is typed here, with a tiny model."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import one_device

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SMALL = """--steps 3 --epochs none --optimizer.schedule.warmup-steps 1 --tokenizer.vocab-size 360
    --model.d-model 16 --model.num-heads 2 --model.num-decoder-layers 1 --data.batch-size 8
    --data.length 32 --model.max-length 32 --data.validation-max-bytes 4000
    --samples.decoding.max-new-tokens 4""".split()


def commands(text: str) -> list[list[str]]:
    """The `llmjax ...` command lines in a shell listing, split into words, comments left out."""
    joined = text.replace("\\\n", " ")
    lines = (re.sub(r"^\S*bin/llmjax", "llmjax", line.strip()) for line in joined.splitlines())
    return [shlex.split(line, comments=True) for line in lines if line.startswith("llmjax ")]


def quickstart_commands() -> list[list[str]]:
    recipe = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", "quickstart"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return commands(recipe)


@pytest.fixture
def new_user(tmp_path, monkeypatch):
    """A folder with a copy of configs/, a text file, and a cache of its own."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "README.md", tmp_path)
    poem = "".join(
        f"Line {n} of a poem on {n * n}: the quick brown fox (jumps) over; lazy dogs, 0_{n:x}!\n\n"
        for n in range(2000)
    )
    (tmp_path / "my.txt").write_text(poem, encoding="utf-8")
    reviews = "".join(f"a {word} film {n},{word}\n" for n in range(20) for word in ("good", "bad"))
    (tmp_path / "reviews.csv").write_text(f"text,label\n{reviews}", encoding="utf-8")
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path


def small(command: list[str]) -> list[str]:
    """The words after `llmjax`, of a size for a test."""
    arguments = command[1:]
    if arguments[0] == "train" and "--help" not in arguments:
        writes = "classify" not in arguments  # an encoder alone does not
        arguments = [*arguments, *SMALL, "--samples.every", "2" if writes else "0"]
    if arguments[0] in ("generate", "chat"):
        arguments = [*arguments, "--max-new-tokens", "4"]
    return arguments


def test_every_command_runs(new_user):
    """In the order a reader meets them: make quickstart, then the listings, then the Python."""
    listings = [text for language, text in BLOCKS if language == "bash"]
    assert "make quickstart" in listings[0]
    assert "`make test`" in README
    quickstart = {command[1] for command in quickstart_commands()}
    typed = [*quickstart_commands(), *(c for text in listings for c in commands(text))]
    assert {command[1] for command in typed} >= {*quickstart, "import", "chat", "embed", "export"}
    steps = [{"command": small(command)} for command in typed]
    steps += [{"code": text} for language, text in BLOCKS if language == "python"]
    one_device.run(steps, new_user, stdin="Hello!\n")
    assert (new_user / "runs/quickstart/report.html").stat().st_size > 10_000


def test_listings_can_be_pasted_into_zsh():
    """At its prompt a # begins no comment, and an unquoted * ? [ matches files or fails."""
    for page in [ROOT / "README.md", ROOT / "launch/README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for listing in re.findall(r"```(?:bash|sh|zsh)\n(.*?)```", text, re.DOTALL):
            shown = re.sub(r"<<'END'\n.*?^END$", "", listing, flags=re.DOTALL | re.MULTILINE)
            unquoted = re.sub(r"'[^']*'|\"[^\"]*\"|=\(.*?\)", "", shown, flags=re.DOTALL)
            assert not re.search(r"[#*?\[]", unquoted), f"{page.name}: {listing}"


def test_extras_and_links_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for names in re.findall(r"\.\[([\w,]+)\]", README):
        assert set(names.split(",")) <= set(extras["optional-dependencies"])
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_links_of_the_docs_name_files():
    """The site has no pages for folders."""
    for page in [ROOT / "launch/README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).is_file(), target
