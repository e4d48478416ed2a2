"""The three commands: files, pipes, exit codes."""

import json
import subprocess
import sys

import pytest
from compress_runs import TEXTS, make
from crafted import crafted, with_header

from llmjax.compression.compress import compress
from llmjax.compression.decompress import inspect

TEXT = (TEXTS[0] * 3 + TEXTS[1]).encode() + b"\xff"


def process(*argv, data=b""):
    words = [sys.executable, "-m", "llmjax", *map(str, argv)]
    return subprocess.run(words, input=data, capture_output=True)


@pytest.mark.once
def test_pipes(run):
    """Nothing but the archive, and nothing but the original, goes to stdout."""
    there = process("compress", run, "-", "-", "--fallback", "no", "--streams", "2", data=TEXT)
    assert there.returncode == 0, there.stderr
    assert b"verified in a separate process" in there.stderr
    assert b"xz -9e" in there.stderr
    back = process("decompress", run, "-", "-", data=there.stdout)
    assert (back.returncode, back.stdout) == (0, TEXT)
    damaged = process("decompress", run, "-", "-", data=there.stdout[:-9] + there.stdout[-8:])
    assert (damaged.returncode, damaged.stdout) == (2, b"")
    assert damaged.stderr.count(b"\n") == 1


def test_files_and_json(run, tmp_path, command):
    (tmp_path / "in").write_bytes(TEXT)
    archive, out = str(tmp_path / "a"), str(tmp_path / "out")
    words = ("compress", str(run), str(tmp_path / "in"), archive, "--no-verify", "--fallback", "no")
    code, printed, _ = command(*words, "--dtype", "float32", "--json")
    result = json.loads(printed)
    assert (code, result["bytes"]) == (0, len(TEXT))
    assert result["archive_bytes"] == (tmp_path / "a").stat().st_size
    assert result["verify_seconds"] is None
    assert set(result["baselines"]) == {"xz -9e", "zstd -19", "brotli 11", "bzip2 -9"}
    assert sum(bits > 0 for _, bits in result["bits_per_token_at"]) > 2
    code, printed, _ = command("inspect", archive)
    assert code == 0
    assert "determinism hash" in printed
    assert f"{len(TEXT):,}" in printed
    code, printed, _ = command("decompress", str(run), archive, out)
    assert (code, (tmp_path / "out").read_bytes()) == (0, TEXT)
    code, _, err = command("decompress", str(run), str(tmp_path / "in"), out)
    assert (code, len(err)) == (2, 1)


ODD = "\udce9.txt"  # a byte that is no UTF-8, as Python has it


@pytest.mark.once
def test_a_folders_listing_is_fit_to_be_shown(run, tmp_path):
    """Names of any bytes, on a strict UTF-8 stdout; nothing in them reaches the terminal raw."""
    (tmp_path / "in" / "né 🙂").mkdir(parents=True)
    (tmp_path / "in" / ODD).write_bytes(b"x")
    (tmp_path / "in" / "\x1b]0;title\x07\nline").write_bytes(b"")
    archive = tmp_path / f"a{ODD}"
    made = process("compress", run, tmp_path / "in", archive, "--no-verify")
    assert made.returncode == 0, made.stderr
    listing = process("inspect", archive)
    assert listing.returncode == 0, listing.stderr
    lines = listing.stdout.decode().splitlines()
    assert [line for line in lines if "folder" in line] == ["  0755       folder né 🙂"]
    assert "  0644            1 \\xe9.txt" in lines
    assert "  0644            0 \\x1b]0;title\\x07\\nline" in lines
    plain = process("inspect", archive, "--json")
    assert plain.returncode == 0, plain.stderr
    assert "né 🙂" in plain.stdout.decode()
    names = {member[0] for member in json.loads(plain.stdout)["files"]}
    assert names == {"né 🙂", ODD, "\x1b]0;title\x07\nline"}
    for back in (f"b{ODD}", f"c{ODD}"):
        flags = ["--json"] * back.startswith("c")
        done = process("decompress", run, archive, tmp_path / back, *flags)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / back / ODD).read_bytes() == b"x"


@pytest.mark.parametrize("header", ['{"size":0}', '{"size":0,"mode":null,"streams":"\\u001b[2J"}'])
def test_headers_of_others_are_shown(tmp_path, command, header):
    (tmp_path / "a").write_bytes(crafted(header.encode(), bytes(1 + 32 + 8)))
    for flags in ((), ("--json",)):
        code, out, _ = command("inspect", str(tmp_path / "a"), *flags)
        assert code == 0
        assert "\x1b" not in out


def test_figures_of_a_file_with_an_odd_name(run, tmp_path):
    (tmp_path / ODD).write_bytes(b"")
    done = process("compress", run, tmp_path / ODD, tmp_path / "a", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert b"\\xe9.txt: 0 bytes" in done.stdout
    assert b"nan" not in done.stdout
    assert b"n/a" in done.stdout


@pytest.fixture(scope="module")
def archives(run, tmp_path_factory):
    """Archives with a frame of the model, and without one."""
    folder = tmp_path_factory.mktemp("archives")
    (folder / "in").write_bytes(TEXT)
    (folder / "noise").write_bytes(bytes(range(256)))
    settings = {"dtype": "float32", "verify": False, "compare": False}
    compress(run, folder / "in", folder / "model", fallback=False, **settings)
    compress(run, folder / "noise", folder / "stored", **settings)
    assert inspect(folder / "model")["frames"]["model"] == 1
    assert inspect(folder / "stored")["frames"]["model"] == 0
    return folder


@pytest.mark.parametrize("archive", ["model", "stored"])
def test_other_runs_are_refused_in_a_line(runs, archives, tmp_path, command, archive):
    cases = [
        (make(tmp_path / "other", seed=1), "its model is"),
        (make(tmp_path / "nudged", nudge=1e-6), "its model is"),
        (runs("byte_level"), "its tokenizer is"),
        (tmp_path / "nothing", "no such run folder"),
    ]
    for run, message in cases:
        words = (str(run), str(archives / archive), str(tmp_path / "out"))
        code, out, err = command("decompress", *words)
        assert (code, out, len(err)) == (2, "", 1), err
        assert message in err[0]
        assert not (tmp_path / "out").exists()


def test_an_edited_determinism_check_is_refused_in_a_line(run, archives, tmp_path, command):
    (tmp_path / "a").write_bytes(with_header((archives / "model").read_bytes(), canary="0"))
    code, out, err = command("decompress", str(run), str(tmp_path / "a"), str(tmp_path / "out"))
    assert (code, out, len(err)) == (2, "", 1)
    assert "determinism check: the model's frequencies differ" in err[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.once
def test_inspecting_starts_no_jax(run, tmp_path):
    (tmp_path / "in").write_bytes(TEXT)
    made = process("compress", run, tmp_path / "in", tmp_path / "a", "--no-verify")
    assert made.returncode == 0, made.stderr
    code = (
        "import sys; from llmjax import inspect; print(inspect(sys.argv[1])); "
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)
