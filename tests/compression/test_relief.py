"""Text that the model expands is left to zstd, piece by piece; the rest stays with the model."""

import random

import numpy as np
import pytest
from compress_runs import TEXTS, make

from llmjax.compression import frames
from llmjax.compression.compressing import compress
from llmjax.compression.decompressing import decompress, inspect
from llmjax.compression.relief import relieve
from llmjax.compression.segments import Cutter, Segment
from llmjax.data.tokenizers.table import BytesTokenizer

BYTES = Cutter(BytesTokenizer(), np.arange(300) < 256)
PLAIN = {"dtype": "float32", "verify": False, "compare": False, "lanes": 16, "context": 64}


def known(size, seed=0):
    """What the model of these tests expects: mostly e, and a and t; 0.57 bits each."""
    return "".join(random.Random(seed).choices("eat", [0.9, 0.05, 0.05], k=size)).encode()


def strange(size):
    """Text that it does not expect at all."""
    words = " ".join(TEXTS).split()
    return (" ".join(random.Random(1).choices(words, k=size // 2))).encode()[:size]


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """A run whose model likes three bytes."""
    likes = {ord("e"): 16.0, ord("a"): 16 - np.log(18), ord("t"): 16 - np.log(18)}
    return make(tmp_path_factory.mktemp("partial") / "of", spread=0.01, likes=likes)


def sizes(run, content, folder):
    (folder / "in").write_bytes(content)
    compress(run, folder / "in", folder / "a", overwrite=True, **PLAIN)
    decompress(run, folder / "a", folder / "out", overwrite=True)
    assert (folder / "out").read_bytes() == content
    found = inspect(folder / "a")
    return found["frames"], sum(found["frame_bytes"].values())


def test_what_the_model_expands_is_handed_over(partial, tmp_path, monkeypatch):
    content = known(20_000) + strange(9_000) + known(20_000, seed=2) + strange(8_500)
    kinds, mixed = sizes(partial, content, tmp_path)
    assert kinds["model"] == 1
    monkeypatch.setattr(frames, "relieve", lambda *args: None)
    _, whole = sizes(partial, content, tmp_path)
    assert mixed < 0.95 * whole


def test_what_the_model_likes_is_coded_once(partial, tmp_path, monkeypatch):
    times, encode = [], frames.encode_tokens
    monkeypatch.setattr(frames, "encode_tokens", lambda *args: (times.append(1), encode(*args))[1])
    assert sizes(partial, known(20_000), tmp_path)[0]["model"] == 1
    assert times == [1]
    assert sizes(partial, strange(20_000), tmp_path)[0]["zstd"] == 1
    assert times == [1, 1], "where no text would be left, zstd has all of it already"


def test_segments_still_make_up_the_data():
    data = known(10_000) + "né ".encode() * 4000 + b"\xff" * 40 + known(9_000)
    segments = BYTES.cut(data)
    assert [one.tokens is None for one in segments] == [False, True, False]
    tokens = np.concatenate([one.tokens for one in segments if one.tokens is not None])
    bits = np.where(np.isin(tokens, list(b"eat")), 0.5, 30.0)
    found = relieve(segments, bits, BYTES).segments
    assert b"".join(one.data for one in found) == data
    kept = b"".join(one.data for one in found if one.tokens is not None)
    assert len(data) - len(kept) > 11_000
    assert kept.count("é".encode()) * 3 < 4096, "but for what shares a piece with others"
    for one in found:
        assert one.tokens is None or bytes(one.tokens.tolist()) == one.data


@pytest.mark.parametrize("cost", [0.01, 100.0])
def test_nothing_to_hand_over_and_nothing_left(cost):
    text = known(9_000)
    segments = [Segment(b"\xff", None), *BYTES.cut(text)]
    assert relieve(segments, np.full(len(text), cost), BYTES) is None
