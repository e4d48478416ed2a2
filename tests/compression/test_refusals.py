"""Whatever is wrong with archive or run: an error and no output, never wrong bytes."""

import hashlib
import io
import json
import math
import random
import shutil

import pytest
import zstandard
from compress_runs import files, make
from crafted import crafted, header_of, with_checksum, with_header

from llmjax.compression import archive as container
from llmjax.compression import decoder, frames
from llmjax.compression.archive import CHECKSUM_BYTES, MAGIC, Archive
from llmjax.compression.compress import compress
from llmjax.compression.decoder import Decoder
from llmjax.compression.decompress import decompress, inspect
from llmjax.compression.fingerprint import model_fingerprint
from llmjax.compression.progress import no_progress
from llmjax.errors import UserError
from llmjax.inference.language_model import load

pytestmark = pytest.mark.once

PLAIN = {"dtype": "float32", "verify": False, "compare": False, "fallback": False}
TEXT = b"A small archive, whose every byte will be changed once. " * 3 + b"\xff\xfe"


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """(path of an archive, its bytes)."""
    place = tmp_path_factory.mktemp("small")
    (place / "in").write_bytes(TEXT)
    compress(run, place / "in", place / "a", streams=2, context=32, stride=16, **PLAIN)
    return place / "a", (place / "a").read_bytes()


def refused(run, data: bytes, folder) -> str:
    """Returns the error for an archive, or "" if it decodes; checks that no output remains."""
    (folder / "bad").write_bytes(data)
    out = folder / "out"
    try:
        decompress(run, folder / "bad", out)
    except UserError as error:
        assert {path.name for path in folder.iterdir()} == {"bad"}
        return str(error)
    assert out.read_bytes() == TEXT
    out.unlink()
    return ""


def test_every_flipped_byte_is_refused(run, made, tmp_path):
    for place in range(len(made[1])):
        for mask in (1 << (place % 8), 0xFF):
            data = bytearray(made[1])
            data[place] ^= mask
            assert refused(run, bytes(data), tmp_path), f"byte {place}"


def test_every_flipped_byte_under_a_new_checksum(run, made, tmp_path, monkeypatch):
    """Without the outer hash the other checks hold: what comes out is right, or refused. The run
    is loaded once, so that this takes seconds."""
    lm = load(run, dtype="float32")
    monkeypatch.setattr(decoder, "load", lambda *args, **rest: lm)
    for place in range(len(made[1]) - CHECKSUM_BYTES):
        data = bytearray(made[1])
        data[place] ^= 1 << (place % 8)
        refused(run, with_checksum(bytes(data)), tmp_path)


def test_archives_that_are_cut_or_something_else(run, made, tmp_path):
    for size in (0, 5, len(MAGIC) + 1, 60, len(made[1]) - 1):
        assert refused(run, made[1][:size], tmp_path)
    assert "not an llmjax archive" in refused(run, b"PK\3\4" * 50, tmp_path)
    newer = bytearray(made[1])
    newer[len(MAGIC)] = 9
    assert "has format 9, this version reads 2; upgrade" in refused(run, bytes(newer), tmp_path)
    assert "damaged" in refused(run, made[1] + b"x", tmp_path)


def test_another_model_or_tokenizer(made, runs, tmp_path):
    other = make(tmp_path / "other", seed=1)
    place = tmp_path / "place"
    place.mkdir()
    assert "its model is" in refused(other, made[1], place)
    assert "its tokenizer is" in refused(runs("byte_level"), made[1], place)
    nothing = tmp_path / "nothing"
    assert "no such run folder" in refused(nothing, made[1], place)


def test_a_copy_of_the_run_is_as_good(made, run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    place = tmp_path / "place"
    place.mkdir()
    assert refused(tmp_path / "copy", made[1], place) == ""


def test_a_weight_that_differs_a_little(made, tmp_path):
    other, place = make(tmp_path / "other", nudge=1e-6), tmp_path / "place"
    place.mkdir()
    assert "its model is" in refused(other, made[1], place)
    fingerprint = model_fingerprint(load(other, dtype="float32"))
    message = refused(other, with_header(made[1], model=fingerprint), place)
    assert "determinism check" in message, "frequencies differ as well"


@pytest.mark.parametrize(
    "fields",
    [
        {"lanes": 3},
        {"context": 48},
        {"stride": 8},
        {"groups": 2},
        {"windows": False},
        {"canary": "0"},
    ],
)
def test_another_shape_or_determinism_check(run, made, tmp_path, fields):
    message = refused(run, with_header(made[1], **fields), tmp_path)
    assert message.startswith("determinism check: the model's frequencies differ")


@pytest.mark.parametrize(
    "fields",
    [
        {"lanes": 0},
        {"lanes": "x"},
        {"lanes": math.inf},
        {"lanes": 10**30},
        {"lanes": 2.5},
        {"groups": 0},
        {"groups": 3},
        {"step": 10**30},
        {"mode": 0o4755},
        {"mode": "x"},
        {"time": 2**63},
        {"size": -1},
        {"size": 10**400},
        {"context": 10**9},
        {"stride": -1},
        {"step": 5},
        {"dtype": "float64"},
        {"environment": None},
        {"size": 1},
        {"size": None},
        {"files": [["../a", 420, 0, 10]]},
        {"files": 3},
        {"files": [["\ud800", 420, 0, 170]]},
    ],
)
def test_invalid_headers(run, made, tmp_path, fields):
    assert refused(run, with_header(made[1], **fields), tmp_path)


NESTED = b'{"size":0,"a":' + b"[" * 600 + b"]" * 600 + b"}"


@pytest.mark.parametrize(
    "header", [b"[" * 100_000, b'{"a":' * 100_000, NESTED, b"[]", b"{}", b"NaN", b"x"]
)
def test_headers_that_are_not_objects(run, tmp_path, header):
    data = crafted(header, bytes(1 + 32 + CHECKSUM_BYTES))
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(UserError, match="the archive: is damaged: its header"):
        inspect(tmp_path / "bad")
    assert "is damaged" in refused(run, data, tmp_path)


def test_no_more_is_written_than_the_header_says(run, made, tmp_path):
    """A small archive may stand for a lot; the disk is not filled before it is refused."""
    header = header_of(made[1])[0] | {"size": 10}
    frame = container.ArchiveWriter(file := io.BytesIO(), {"size": 10})
    before = frame.written
    packed = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    for _ in range(50):
        frame.frame(container.ZSTD, packed, b"")
    frame.close()
    data = crafted(json.dumps(header).encode(), file.getvalue()[before:])
    assert "more bytes than its header states" in refused(run, data, tmp_path)
    written = []
    opened = Decoder(run, Archive.open(io.BytesIO(data)))
    with pytest.raises(UserError, match="more bytes than its header states"):
        opened.decode(written.append, "Decompressing", no_progress)
    assert written == []


def test_the_model_is_checked_whatever_the_frames_are(run, runs, tmp_path):
    """Also where nothing was left to the model, so that it would never be asked."""
    (tmp_path / "in").write_bytes(files()["random"][:3000])
    compress(run, tmp_path / "in", tmp_path / "a", **PLAIN)
    assert not inspect(tmp_path / "a")["frames"]["model"]
    place = tmp_path / "place"
    place.mkdir()
    data = (tmp_path / "a").read_bytes()
    assert "no such run folder" in refused(tmp_path / "nothing", data, place)
    assert "its model is" in refused(make(tmp_path / "other", seed=1), data, place)
    assert "its tokenizer is" in refused(runs("byte_level"), data, place)


def test_the_determinism_check_comes_before_the_first_frame(run, tmp_path):
    """A frame of noise, then one of text."""
    (tmp_path / "in").write_bytes(random.Random(0).randbytes(frames.FRAME) + TEXT[:100])
    shape = {"streams": 2, "context": 32, "stride": 16}
    compress(run, tmp_path / "in", tmp_path / "a", **shape, **PLAIN)
    kinds = inspect(tmp_path / "a")["frames"]
    assert kinds["model"] == kinds["zstd"] + kinds["stored"] == 1
    data = with_header((tmp_path / "a").read_bytes(), canary="0")
    place = tmp_path / "place"
    place.mkdir()
    (place / "bad").write_bytes(data)
    stages = []
    with pytest.raises(UserError, match=r"^determinism check:"):
        decompress(run, place / "bad", place / "out", progress=lambda *now: stages.append(now))
    assert stages == [], "no frame was decoded before"
    assert [path.name for path in place.iterdir()] == ["bad"]


def test_differences_of_environment_are_named(run, made, tmp_path, caplog):
    elsewhere = inspect(made[0])["environment"] | {"jaxlib": "0.0.1"}
    data = with_header(made[1], environment=elsewhere)
    assert refused(run, data, tmp_path) == "", "the determinism check passes"
    assert "jaxlib was '0.0.1', is" in caplog.text
    message = refused(run, with_header(made[1], environment=elsewhere, canary="0"), tmp_path)
    assert "jaxlib was '0.0.1', is" in message
    message = refused(run, with_header(made[1], canary="0"), tmp_path)
    assert (
        "nothing recorded differs: the compiler chose other kernels, or the header was" in message
    )


def test_what_does_not_decode_gets_no_name(run, tmp_path, monkeypatch):
    """An encoder that is wrong: here, of streams that were swapped."""
    right = frames.encode_tokens
    monkeypatch.setattr(
        frames,
        "encode_tokens",
        lambda *args: (encoded := right(*args))._replace(streams=encoded.streams[::-1]),
    )
    (tmp_path / "in").write_bytes(files()["long"])
    with pytest.raises(
        UserError, match=r"does not decode, so it was not kept \(stream 0: its check"
    ):
        compress(run, tmp_path / "in", tmp_path / "a", **PLAIN | {"verify": True})
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_exists_is_not_written_over(run, made, tmp_path):
    (tmp_path / "in").write_bytes(b"x")
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(UserError, match="exists"):
        compress(run, tmp_path / "in", tmp_path / "a", **PLAIN)
    with pytest.raises(UserError, match="exists"):
        decompress(run, made[0], tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"mine"
    compress(run, tmp_path / "in", tmp_path / "a", overwrite=True, **PLAIN)
    decompress(run, tmp_path / "a", tmp_path / "in", overwrite=True)
    assert (tmp_path / "in").read_bytes() == b"x"


def test_reading_a_header_needs_no_model(made):
    with open(made[0], "rb") as file:
        archive = Archive.open(file)
        assert [kind for kind, _ in archive.frames()] == [container.MODEL]
        assert archive.original_digest() == hashlib.sha256(TEXT).digest()
    assert inspect(made[0])["streams"] == 2
