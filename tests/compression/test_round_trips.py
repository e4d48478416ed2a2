"""Any bytes come back, with every kind of tokenizer, in this process and in a fresh one."""

import json
import subprocess
import sys

import pytest
from compress_runs import files
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.compression.compress import compress
from llmjax.compression.decompress import decompress, inspect
from llmjax.compression.frames import FRAME
from llmjax.compression.segments import PIECE

FRESH = """
import json, sys
from llmjax.compression.decompress import decompress
run, names = sys.argv[1], json.loads(sys.argv[2])
for name in names:
    decompress(run, name, name + ".out")
"""
KINDS = ["bytes", "sentencepiece", "byte_level", "lower"]
ONCE = [pytest.param(kind, marks=pytest.mark.once) for kind in ("sentencepiece", "lower")]
PLAIN = {"dtype": "float32", "verify": False, "compare": False}


@pytest.mark.parametrize("kind", ["bytes", "byte_level", *ONCE])
def test_each_file_comes_back_in_a_new_process(kind, runs, tmp_path):
    """Given nothing but the archives and a run folder; with and without help of zstd."""
    archives = {}
    for name, content in files().items():
        (tmp_path / name).write_bytes(content)
        for fallback in (False, True):
            archive = tmp_path / f"{name}.{fallback}"
            compress(runs(kind), tmp_path / name, archive, fallback=fallback, **PLAIN)
            archives[str(archive)] = content
    words = [sys.executable, "-c", FRESH, str(runs(kind)), json.dumps(list(archives))]
    subprocess.run(words, check=True)
    for archive, content in archives.items():
        with open(f"{archive}.out", "rb") as file:
            assert file.read() == content, archive
        header = inspect(archive)
        assert header["size"] == len(content)
        if archive.endswith("True"):
            frame_head = 16
            limit = header["header_bytes"] + 64 + frame_head + 1.001 * len(content)
            assert header["archive_bytes"] <= limit
    by_model = {name for name in archives if inspect(name)["frames"]["model"]}
    lossy = "lower" if kind == "lower" else ""
    assert {name.rpartition("/")[2] for name in by_model} >= (
        {"long.False", "mixed.False"} | (set() if lossy else {"specials.False"})
    )


PIECES = st.sampled_from(
    [b"\xff", b"\0", b"<bos>", "né 🙂".encode(), b"words and words, " * 9, b"\r\n", b"\xc3"]
)
ANY = st.lists(st.binary(max_size=40) | PIECES, max_size=12).map(b"".join)


@settings(max_examples=25, deadline=None)
@given(data=ANY, streams=st.sampled_from([1, 3]), kind=st.sampled_from(KINDS[:3]))
def test_any_bytes_come_back(runs, tmp_path_factory, data, streams, kind):
    folder = tmp_path_factory.mktemp("any")
    (folder / "in").write_bytes(data)
    shape = {"streams": streams, "context": 32, "stride": 8}
    compress(runs(kind), folder / "in", folder / "a", fallback=False, **shape, **PLAIN)
    decompress(runs(kind), folder / "a", folder / "out")
    assert (folder / "out").read_bytes() == data


@pytest.mark.parametrize("stride", [1, 7, 16])
@pytest.mark.parametrize("streams", [1, 5])
def test_windows_and_streams(run, tmp_path, streams, stride):
    content = files()["long"][:400]
    (tmp_path / "in").write_bytes(content)
    result = compress(
        run,
        tmp_path / "in",
        tmp_path / "a",
        streams=streams,
        context=16,
        stride=stride,
        fallback=False,
        **PLAIN,
    )
    assert (result.streams, result.context, result.stride) == (streams, 16, stride)
    decompress(run, tmp_path / "a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content


def test_several_frames(run, tmp_path):
    """Text and a character cross the boundaries of frames; raw bytes fill the rest."""
    text, noise, accents = files()["long"][:1000], files()["random"][:700], "née".encode() * 90
    content = bytes(FRAME - PIECE) + b"\xff" * (PIECE - 500) + text + noise
    content += b"\xff" * (FRAME + PIECE - len(content))
    content += bytes(FRAME - 2 * PIECE) + b"\xff" * (PIECE - 102) + accents
    (tmp_path / "in").write_bytes(content)
    shape = {"streams": 2, "context": 32, "stride": 16}
    compress(run, tmp_path / "in", tmp_path / "a", fallback=False, **shape, **PLAIN)
    assert inspect(tmp_path / "a")["frames"] == {"stored": 0, "zstd": 0, "model": 3}
    decompress(run, tmp_path / "a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content


@pytest.mark.parametrize("name", ["random", "long"])
def test_progress_is_reported_both_ways(run, tmp_path, name):
    """Of frames without the model as well."""
    calls, content = [], files()[name][:2000]
    (tmp_path / "in").write_bytes(content)
    compress(run, tmp_path / "in", tmp_path / "a", progress=lambda *now: calls.append(now), **PLAIN)
    decompress(run, tmp_path / "a", tmp_path / "out", progress=lambda *now: calls.append(now))
    written, size = (tmp_path / "a").stat().st_size, len(content)
    for stage in ("Compressing", "Decompressing"):
        done = [now[1:] for now in calls if now[0] == stage]
        assert done[-1][:2] == (size, size)
        assert done[-1][2] < written
        assert all(0 < here <= size and of > 0 for here, _, of in done)
