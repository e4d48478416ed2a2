"""Small files that would expand to huge data are refused in one line, fast and in little memory.

Each child may take `ROOM` more memory than it has when the import begins: a reader that believes a
file is killed by its own limit, whatever the machine has. A reader that waits for a FIFO or counts
to 10^6 is stopped after `PATIENCE` seconds.
"""

import subprocess
import sys

import bombs
import pytest

from llmjax.convert.importing import import_model
from llmjax.errors import UserError

ROOM = 200 << 20
PATIENCE = 120

CHILD = """
import resource, sys
from pathlib import Path
from llmjax.convert.gguf.file import open_file
from llmjax.convert.hf.safetensors import read_header
from llmjax.errors import UserError
reader, path, room = sys.argv[1:]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
used += Path(path).stat().st_size  # mapped, or read once
resource.setrlimit(resource.RLIMIT_AS, (used + int(room),) * 2)
try:
    {"gguf": open_file, "safetensors": read_header}[reader](Path(path))
except UserError as error:
    print("refused:", error)
"""

LARGE = ["header of 90 MB", "300,000 tensors"]


@pytest.mark.parametrize("name", [name for name in bombs.FOLDERS if name not in LARGE])
def test_folders(name, tmp_path):
    folder = bombs.make(tmp_path / "there", name)
    with pytest.raises(UserError) as caught:
        import_model(folder, tmp_path / "run")
    assert len(str(caught.value)) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def in_little_memory(reader, path):
    """The output of a memory-limited child process that reads a file."""
    words = [sys.executable, "-c", CHILD, reader, str(path), str(ROOM)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


@pytest.mark.parametrize("name", LARGE)
def test_large_headers(name, tmp_path):
    folder = bombs.make(tmp_path / "there", name)
    assert "refused" in in_little_memory("safetensors", folder / bombs.MODEL)


@pytest.mark.parametrize("name", bombs.GGUFS)
def test_gguf(name, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(bombs.GGUFS[name]())
    output = in_little_memory("gguf", path)
    assert "refused" in output
    assert "damaged" in output
