"""The three verbs at the command line: files, pipes, exit codes."""

import json
import subprocess
import sys

from compress_runs import TEXTS

TEXT = (TEXTS[0] * 3 + TEXTS[1]).encode() + b"\xff"


def process(*argv, data=b""):
    words = [sys.executable, "-m", "llmjax", *map(str, argv)]
    return subprocess.run(words, input=data, capture_output=True)


def test_pipes(run):
    """Nothing but the archive, and nothing but the original, goes to stdout."""
    there = process("compress", run, "-", "-", "--fallback", "no", "--lanes", "2", data=TEXT)
    assert there.returncode == 0, there.stderr
    assert b"verified in a process of its own" in there.stderr
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
    found = json.loads(printed)
    assert (code, found["bytes"]) == (0, len(TEXT))
    assert found["archive_bytes"] == (tmp_path / "a").stat().st_size
    assert found["verify_seconds"] is None
    assert set(found["baselines"]) == {"xz -9e", "zstd -19", "brotli 11", "bzip2 -9"}
    assert sum(bits > 0 for _, bits in found["bits_per_token_at"]) > 2
    code, printed, _ = command("inspect", archive)
    assert code == 0
    assert "canary" in printed
    assert f"{len(TEXT):,}" in printed
    code, printed, _ = command("decompress", str(run), archive, out)
    assert (code, (tmp_path / "out").read_bytes()) == (0, TEXT)
    code, _, err = command("decompress", str(run), str(tmp_path / "in"), out)
    assert (code, len(err)) == (2, 1)


def test_inspecting_starts_no_jax(run, tmp_path):
    (tmp_path / "in").write_bytes(TEXT)
    made = process("compress", run, tmp_path / "in", tmp_path / "a", "--no-verify")
    assert made.returncode == 0, made.stderr
    code = (
        "import sys; from llmjax.compress import inspect; print(inspect(sys.argv[1])); "
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)
