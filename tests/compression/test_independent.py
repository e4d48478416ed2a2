"""An archive is read without anything of ours but the model's frequencies; others' coders agree.

The container is taken apart by hand, windows are those that docs/compress.md describes, lanes are
read by Python's own integers, and constriction's stack coder is given the same frequencies.
"""

import zlib

import constriction
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import BITS, decode_lane
from test_coder import table

from llmjax.compression.coder import checksums, write_lanes
from llmjax.compression.compressing import compress
from llmjax.compression.header import _TYPICAL
from llmjax.compression.lanes import Shape, Walker
from llmjax.inference.language_model import load

TEXT = b"Sphinx of black quartz, judge my vow, twice."
LANES, CONTEXT, STRIDE = 2, 16, 8


class Asking(Walker):
    """A walker that asks every step for the intervals of all symbols: tables[step][symbol]."""

    def __init__(self, lm, shape):
        super().__init__(lm, shape)
        self.tables = []

    def step(self, cache, inputs, position, known, targets, seek):
        rows = []
        for symbol in range(256):
            copy, each = jax.tree.map(jnp.copy, cache), np.full(len(known), symbol, np.int32)
            found, _ = super().step(copy, inputs, position, each, targets, False)
            rows.append((found.start, found.freq))
        self.tables.append(np.array(jax.device_get(rows)).astype(np.int64))  # [256, 2, lanes]
        return super().step(cache, inputs, position, known, targets, seek)


class Given:
    """Symbols of a walk, all known."""

    def __init__(self, rows):
        self.rows = rows

    def ask(self, step):
        return self.rows[:, step], np.zeros(len(self.rows), np.uint32), False

    def tell(self, step, found):
        pass

    def taken(self, start, end):
        return self.rows[:, start:end]


@pytest.fixture(scope="module")
def lm(run):
    return load(run, dtype="float32")


@pytest.fixture(scope="module")
def tables(lm):
    """The integer frequencies of every step: [256 symbols, start and freq, lanes]."""
    walker = Asking(lm, Shape(LANES, CONTEXT, STRIDE))
    rows = np.frombuffer(TEXT, np.uint8).astype(np.int32).reshape(LANES, -1)
    walker.walk(rows.shape[1], [Given(rows)])
    return walker.tables


def taken_apart(data):
    """The lanes of an archive's only frame."""
    place = 8

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte, place = data[place], place + 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    assert data[:8] == b"\x8fLLMJAX\x02"
    length = varint()
    header = zlib.decompressobj(-15, zdict=_TYPICAL).decompress(data[place:][:length])
    assert b'"lanes":2,"context":16,"stride":8,"groups":1,"windows":true' in header
    place += length
    assert data[place] == 3, "a frame of the model"
    place += 1
    end = varint() + place
    segments = [varint() for _ in range(varint())]
    assert segments == [2 * len(TEXT)], "one segment, all of it text"
    assert varint() == 0, "no bytes that are no text"
    least, bits, place = varint(), data[place], place + 1
    size = -(-LANES * bits // 8)
    more = int.from_bytes(data[place : place + size], "little")
    lengths = [least + (more >> bits * lane) % (1 << bits) for lane in range(LANES)]
    place += size
    lanes = [data[place + sum(lengths[:n]) : place + sum(lengths[: n + 1])] for n in range(LANES)]
    assert place + sum(lengths) == end
    assert data[end] == 0, "no other frame"
    return lanes


@pytest.fixture(scope="module")
def lanes(run, tmp_path_factory):
    place = tmp_path_factory.mktemp("independent")
    (place / "in").write_bytes(TEXT)
    shape = {"lanes": LANES, "context": CONTEXT, "stride": STRIDE, "dtype": "float32"}
    switches = {"verify": False, "compare": False, "fallback": False}
    compress(run, place / "in", place / "a", **shape, **switches)
    return taken_apart((place / "a").read_bytes())


def test_plain_integers_read_an_archive(lanes, tables):
    """Two lanes, each with a second window."""
    assert len(tables) > CONTEXT
    found = b""
    for lane, data in enumerate(lanes):
        rows = [[tuple(entry) for entry in found[:, :, lane].tolist()] for found in tables]
        assert all(sum(freq for _, freq in row) == 1 << BITS for row in rows)
        symbols, left = decode_lane(data, len(rows), rows.__getitem__)
        assert left == zlib.crc32(np.array(symbols, "<i4").tobytes()) >> 24
        found += bytes(symbols)
    assert found == TEXT


def test_windows_are_those_of_the_documentation(lm, tables):
    """Each token's frequencies against a full forward of the tokens it is predicted from."""
    rows = np.frombuffer(TEXT, np.uint8).astype(np.int32).reshape(LANES, -1)
    forward = jax.jit(lambda tokens: jax.nn.softmax(lm.model.apply(lm.params, tokens), axis=-1))
    for lane, row in enumerate(rows):
        for step, found in enumerate(tables):
            read = [lm.tokenizer.bos_id, *row[:step]]
            if step >= CONTEXT:
                later = (step - CONTEXT) // STRIDE + 1  # windows begin `stride` tokens further on
                read = read[later * STRIDE :]
            assert len(read) <= CONTEXT
            padded = np.zeros((1, CONTEXT), np.int32)
            padded[0, : len(read)] = read
            exact = np.asarray(forward(padded))[0, len(read) - 1, :256]
            assert np.abs(found[:, 1, lane] / (1 << BITS) - exact).max() < 2e-3


def test_another_coder_needs_as_much(lanes, tables):
    for lane, data in enumerate(lanes):
        freqs = np.stack([found[:, 1, lane] for found in tables]).astype(np.float64)
        symbols = np.frombuffer(TEXT, np.uint8).astype(np.int32).reshape(LANES, -1)[lane]
        assert abs(words(symbols, freqs) - len(data) // 4) <= 2


def words(symbols, freqs):
    """How many 32-bit words constriction needs: symbols [n], frequencies [n, V]."""
    coder = constriction.stream.stack.AnsCoder()
    model = constriction.stream.model.Categorical(perfect=False)
    coder.encode_reverse(symbols.astype(np.int32), model, freqs / freqs.sum(1, keepdims=True))
    return len(coder.get_compressed())


def test_another_coder_needs_as_much_for_long_lanes():
    """Symbols as often as their frequencies say: its own sum to 2^24, so rare ones cost less."""
    generator, lanes, steps = np.random.default_rng(5), 3, 3000
    freqs = np.stack([table(step, 50) for step in range(steps)])
    ends = np.cumsum(freqs, axis=1)
    drawn = generator.integers(0, 1 << BITS, (lanes, steps))
    chosen = (ends <= drawn[:, :, None]).sum(-1)
    own, counts = freqs[np.arange(steps), chosen], np.full(lanes, steps)
    starts = ends[np.arange(steps), chosen] - own
    data = write_lanes(starts, own, counts, checksums(chosen, counts))
    for lane in range(lanes):
        assert abs(words(chosen[lane], freqs.astype(np.float64)) - len(data[lane]) // 4) <= 4
