"""Raw fallback: zstd gets text that the model expands, piece by piece."""

import random

import numpy as np
import pytest
from compress_runs import TEXTS, make

from llmjax.compression.archive import MODEL, ZSTD
from llmjax.compression.codec import CodecStepper, StreamLayout, allowed_ids
from llmjax.compression.compress import compress
from llmjax.compression.decompress import decompress, inspect
from llmjax.compression.frames import encode_frame
from llmjax.compression.segments import Segment, Segmenter, raw_fallback, zstd_compress
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.inference.language_model import load

pytestmark = pytest.mark.once

BYTES = Segmenter(BytesTokenizer(), np.arange(300) < 256)
PLAIN = {"dtype": "float32", "verify": False, "compare": False, "streams": 16, "context": 64}


def known(size, seed=0):
    """Text that the model of these tests expects: mostly e, some a and t; 0.57 bits each."""
    return "".join(random.Random(seed).choices("eat", [0.9, 0.05, 0.05], k=size)).encode()


def strange(size):
    """Text that it does not expect."""
    words = " ".join(TEXTS).split()
    return (" ".join(random.Random(1).choices(words, k=size // 2))).encode()[:size]


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """A run whose model likes three bytes."""
    likes = {ord("e"): 16.0, ord("a"): 16 - np.log(18), ord("t"): 16 - np.log(18)}
    return make(tmp_path_factory.mktemp("partial") / "of", spread=0.01, likes=likes)


def sizes(run, content, folder, **options):
    (folder / "in").write_bytes(content)
    compress(run, folder / "in", folder / "a", overwrite=True, **PLAIN, **options)
    decompress(run, folder / "a", folder / "out", overwrite=True)
    assert (folder / "out").read_bytes() == content
    header = inspect(folder / "a")
    return header["frames"], sum(header["frame_bytes"].values())


def test_what_the_model_expands_becomes_raw(partial, tmp_path):
    content = known(20_000) + strange(9_000) + known(20_000, seed=2) + strange(8_500)
    kinds, mixed = sizes(partial, content, tmp_path)
    assert kinds["model"] == 1
    _, by_model = sizes(partial, content, tmp_path, fallback=False)
    assert mixed < 0.95 * min(by_model, len(zstd_compress(content)))


def test_what_the_model_likes_is_encoded_once(partial):
    lm = load(partial, dtype="float32")
    stepper, segmenter = (
        CodecStepper(lm, StreamLayout(16, 64, 32)),
        Segmenter(lm.tokenizer, allowed_ids(lm)),
    )

    def encode(data):
        """Returns the type of the frame, and the number of times the model encoded it."""
        calls = []
        segments = segmenter.split(data)
        frame = encode_frame(
            lambda: (calls.append(1), stepper)[1], data, segments, segmenter, lambda *done: None
        )
        return frame.kind, len(calls)

    assert encode(known(20_000)) == (MODEL, 1)
    assert encode(strange(20_000)) == (ZSTD, 1), "no text would be left: zstd has all of it already"
    assert encode(known(20_000) + strange(9_000)) == (MODEL, 2)


def test_segments_still_make_up_the_data():
    data = known(10_000) + "né ".encode() * 4000 + b"\xff" * 40 + known(9_000)
    segments = BYTES.split(data)
    assert [segment.tokens is None for segment in segments] == [False, True, False]
    tokens = np.concatenate([part.tokens for part in segments if part.tokens is not None])
    bits = np.where(np.isin(tokens, list(b"eat")), 0.5, 30.0)
    result = raw_fallback(segments, bits, BYTES).segments
    assert b"".join(segment.data for segment in result) == data
    kept = b"".join(segment.data for segment in result if segment.tokens is not None)
    assert len(data) - len(kept) > 11_000
    assert kept.count("é".encode()) * 3 < 4096, "but for what shares a piece with others"
    for segment in result:
        assert segment.tokens is None or bytes(segment.tokens.tolist()) == segment.data


@pytest.mark.parametrize("cost", [0.01, 100.0])
def test_no_piece_becomes_raw_or_no_text_would_be_left(cost):
    text = known(9_000)
    segments = [Segment(b"\xff", None), *BYTES.split(text)]
    assert raw_fallback(segments, np.full(len(text), cost), BYTES) is None
