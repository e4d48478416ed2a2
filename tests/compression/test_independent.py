"""An archive is decoded with nothing of llmjax but the model's frequencies; another coder agrees.

The container is parsed by hand, windows are those that docs/compress.md describes, streams are
decoded with Python integers, and constriction's stack coder encodes the same frequencies.
"""

import zlib

import constriction
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import BITS, decode_stream
from test_rans import table

from llmjax.compression.codec import CodecStepper, StreamLayout
from llmjax.compression.compress import compress
from llmjax.compression.header import DICTIONARY
from llmjax.compression.rans import checksums, write_streams
from llmjax.inference.language_model import load

pytestmark = pytest.mark.once

TEXT = b"Sphinx of black quartz, judge my vow, twice."
STREAMS, CONTEXT, STRIDE = 2, 16, 8


class RecordingStepper(CodecStepper):
    """A stepper that records the intervals of all symbols at each step: tables[step][symbol]."""

    def __init__(self, lm, layout):
        super().__init__(lm, layout)
        self.tables = []

    def step(self, cache, inputs, position, known, targets, seek):
        rows = []
        for symbol in range(256):
            copy, symbols = jax.tree.map(jnp.copy, cache), np.full(len(known), symbol, np.int32)
            interval, _ = super().step(copy, inputs, position, symbols, targets, False)
            rows.append((interval.start, interval.freq))
        self.tables.append(np.array(jax.device_get(rows)).astype(np.int64))  # [256, 2, streams]
        return super().step(cache, inputs, position, known, targets, seek)


class KnownSymbols:
    """A coder of known symbols."""

    def __init__(self, rows):
        self.rows = rows

    def query(self, step):
        return self.rows[:, step], np.zeros(len(self.rows), np.uint32), False

    def receive(self, step, interval):
        pass

    def history(self, start, end):
        return self.rows[:, start:end]


@pytest.fixture(scope="module")
def lm(run):
    return load(run, dtype="float32")


@pytest.fixture(scope="module")
def tables(lm):
    """The integer frequencies of every step: [256 symbols, start and freq, streams]."""
    stepper = RecordingStepper(lm, StreamLayout(STREAMS, CONTEXT, STRIDE))
    rows = np.frombuffer(TEXT, np.uint8).astype(np.int32).reshape(STREAMS, -1)
    stepper.run(rows.shape[1], [KnownSymbols(rows)])
    return stepper.tables


def parse_streams(data):
    """Returns the streams of an archive's only frame."""
    offset = 8

    def varint():
        nonlocal offset
        value = shift = 0
        while True:
            byte, offset = data[offset], offset + 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    assert data[:8] == b"\x8fLLMJAX\x02"
    length = varint()
    header = zlib.decompressobj(-15, zdict=DICTIONARY).decompress(data[offset:][:length])
    assert b'"lanes":2,"context":16,"stride":8,"groups":1,"windows":true' in header
    offset += length
    assert data[offset] == 3, "a model frame"
    offset += 1
    end = varint() + offset
    segments = [varint() for _ in range(varint())]
    assert segments == [2 * len(TEXT)], "one segment, all text"
    assert varint() == 0, "no raw bytes"
    minimum, width, offset = varint(), data[offset], offset + 1
    size = -(-STREAMS * width // 8)
    packed = int.from_bytes(data[offset : offset + size], "little")
    lengths = [minimum + (packed >> width * stream) % (1 << width) for stream in range(STREAMS)]
    offset += size
    streams = [
        data[offset + sum(lengths[:n]) : offset + sum(lengths[: n + 1])] for n in range(STREAMS)
    ]
    assert offset + sum(lengths) == end
    assert data[end] == 0, "no other frame"
    return streams


@pytest.fixture(scope="module")
def streams(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("independent")
    (folder / "in").write_bytes(TEXT)
    layout = {"streams": STREAMS, "context": CONTEXT, "stride": STRIDE, "dtype": "float32"}
    switches = {"verify": False, "compare": False, "fallback": False}
    compress(run, folder / "in", folder / "a", **layout, **switches)
    return parse_streams((folder / "a").read_bytes())


def test_plain_integers_read_an_archive(streams, tables):
    """Two streams, each with a second window."""
    assert len(tables) > CONTEXT
    decoded = b""
    for stream, data in enumerate(streams):
        rows = [
            [tuple(entry) for entry in step_table[:, :, stream].tolist()] for step_table in tables
        ]
        assert all(sum(freq for _, freq in row) == 1 << BITS for row in rows)
        symbols, checksum = decode_stream(data, len(rows), rows.__getitem__)
        assert checksum == zlib.crc32(np.array(symbols, "<i4").tobytes()) >> 24
        decoded += bytes(symbols)
    assert decoded == TEXT


def test_windows_are_those_of_the_documentation(lm, tables):
    """Each token's frequencies against a full forward of the tokens it is predicted from."""
    rows = np.frombuffer(TEXT, np.uint8).astype(np.int32).reshape(STREAMS, -1)
    forward = jax.jit(lambda tokens: jax.nn.softmax(lm.model.apply(lm.params, tokens), axis=-1))
    for stream, row in enumerate(rows):
        for step, step_table in enumerate(tables):
            read = [lm.tokenizer.bos_id, *row[:step]]
            if step >= CONTEXT:
                later = (step - CONTEXT) // STRIDE + 1  # windows begin `stride` tokens further on
                read = read[later * STRIDE :]
            assert len(read) <= CONTEXT
            padded = np.zeros((1, CONTEXT), np.int32)
            padded[0, : len(read)] = read
            exact = np.asarray(forward(padded))[0, len(read) - 1, :256]
            assert np.abs(step_table[:, 1, stream] / (1 << BITS) - exact).max() < 2e-3


def test_another_coder_needs_as_much(streams, tables):
    for stream, data in enumerate(streams):
        freqs = np.stack([step_table[:, 1, stream] for step_table in tables]).astype(np.float64)
        symbols = np.frombuffer(TEXT, np.uint8).astype(np.int32).reshape(STREAMS, -1)[stream]
        assert abs(words(symbols, freqs) - len(data) // 4) <= 2


def words(symbols, freqs):
    """How many 32-bit words constriction needs: symbols [n], frequencies [n, V]."""
    coder = constriction.stream.stack.AnsCoder()
    model = constriction.stream.model.Categorical(perfect=False)
    coder.encode_reverse(symbols.astype(np.int32), model, freqs / freqs.sum(1, keepdims=True))
    return len(coder.get_compressed())


def test_another_coder_needs_as_much_for_long_streams():
    """Symbols as often as their frequencies say: its own sum to 2^24, so rare ones cost less."""
    generator, streams, steps = np.random.default_rng(5), 3, 3000
    freqs = np.stack([table(step, 50) for step in range(steps)])
    ends = np.cumsum(freqs, axis=1)
    drawn = generator.integers(0, 1 << BITS, (streams, steps))
    chosen = (ends <= drawn[:, :, None]).sum(-1)
    chosen_freqs, lengths = freqs[np.arange(steps), chosen], np.full(streams, steps)
    starts = ends[np.arange(steps), chosen] - chosen_freqs
    data = write_streams(starts, chosen_freqs, lengths, checksums(chosen, lengths))
    for stream in range(streams):
        assert abs(words(chosen[stream], freqs.astype(np.float64)) - len(data[stream]) // 4) <= 4
