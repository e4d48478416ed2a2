"""The entropy coder: exact round trips, cost, an independent reader, damaged streams."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import decode_stream

from llmjax.compression.rans import BITS, StreamReader, checksums, write_streams
from llmjax.errors import UserError

TOTAL = 1 << BITS


def table(seed: int, symbols: int) -> np.ndarray:
    """Frequencies that sum to TOTAL, some of them 1, one perhaps nearly all."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(symbols, 0.2))
    freqs = np.floor(probabilities * (TOTAL - symbols)).astype(np.int64) + 1
    freqs[freqs.argmax()] += TOTAL - freqs.sum()
    return freqs


def drawn(seed, streams, steps, symbols):
    """Symbols, starts and frequencies [streams, steps], and the (starts, tables) of each step."""
    tables = [table(seed + step, symbols) for step in range(steps)]
    starts = [np.concatenate([[0], np.cumsum(f)[:-1]]) for f in tables]
    chosen = np.random.default_rng(seed).integers(0, symbols, (streams, steps))
    intervals = (
        np.array([part[t][chosen[:, t]] for t in range(steps)]).T.reshape(streams, steps)
        for part in (starts, tables)
    )
    return chosen, *intervals, (starts, tables)


def read(data, lengths, tables, steps):
    reader, columns = StreamReader(data, lengths), []
    for step in range(steps):
        starts, freqs = (part[step] for part in tables)
        symbols = np.searchsorted(starts, reader.targets, side="right") - 1
        reader.advance(starts[symbols], freqs[symbols])
        columns.append(symbols)
    decoded = np.array(columns).T.reshape(len(lengths), steps)
    return decoded, reader.finished(checksums(decoded, lengths))


def write(chosen, starts, freqs, lengths):
    lengths = np.array(lengths)
    return write_streams(starts, freqs, lengths, checksums(chosen, lengths))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 5), st.integers(1, 40), st.integers(1, 60))
def test_what_is_written_is_read(seed, streams, steps, symbols):
    chosen, starts, freqs, tables = drawn(seed, streams, steps, symbols)
    lengths = np.random.default_rng(seed).integers(0, steps + 1, streams)
    data = write(chosen, starts, freqs, lengths)
    decoded, finished = read(data, lengths, tables, steps)
    assert finished.all()
    for stream, length in enumerate(lengths):
        assert (decoded[stream, :length] == chosen[stream, :length]).all()
        assert bool(data[stream]) == bool(length)


def test_a_reader_in_plain_integers_agrees():
    chosen, starts, freqs, (begin, tables) = drawn(7, 3, 50, 30)
    data = write(chosen, starts, freqs, [50, 31, 0])

    def rows(step):
        return list(zip(begin[step].tolist(), tables[step].tolist(), strict=True))

    for stream, count in enumerate((50, 31, 0)):
        if count:
            symbols, checksum = decode_stream(data[stream], count, rows)
            assert symbols == chosen[stream, :count].tolist()
            assert checksum == zlib.crc32(np.array(symbols, "<i4").tobytes()) >> 24


def test_the_cost_is_that_of_the_frequencies():
    chosen, starts, freqs, _ = drawn(3, 4, 2000, 50)
    data = write(chosen, starts, freqs, [2000] * 4)
    ideal = np.log2(TOTAL / freqs).sum() / 8
    assert ideal < sum(map(len, data)) < ideal * 1.0005 + 4 * 3


def test_extreme_frequencies():
    """Frequencies 1 and TOTAL are the edges of the arithmetic."""
    for start, freq in ((0, 1), (TOTAL - 1, 1), (0, TOTAL), (1, TOTAL - 1)):
        starts, freqs = (np.full((2, 300), value) for value in (start, freq))
        data = write(starts, starts, freqs, [300, 299])
        reader = StreamReader(data, np.array([300, 299]))
        for step in range(300):
            targets = reader.targets[: 2 if step < 299 else 1]
            assert ((targets >= start) & (targets < start + freq)).all()
            reader.advance(starts[:, 0], freqs[:, 0])
        assert reader.finished(checksums(starts, np.array([300, 299]))).all()


@pytest.mark.parametrize(("start", "freq"), [(0, 0), (TOTAL, 1), (5, TOTAL), (-1, 1)])
def test_impossible_intervals_are_errors(start, freq):
    with pytest.raises(ValueError, match="interval"):
        write_streams(
            np.array([[start]]), np.array([[freq]]), np.array([1]), np.zeros(1, np.uint64)
        )


def test_damaged_streams_do_not_pass():
    chosen, starts, freqs, tables = drawn(11, 1, 20, 9)
    (data,) = write(chosen, starts, freqs, [20])
    intact, _ = read([data], np.array([20]), tables, 20)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        decoded, finished = read([bytes(flipped)], np.array([20]), tables, 20)
        assert not finished[0] or (decoded == intact).all()
    for wrong in (data[:-1], data[:-4], data[:7], data + bytes(4), b"\0"):
        _, finished = read([wrong], np.array([20]), tables, 20)
        assert not finished[0]
    with pytest.raises(UserError, match="stream 0: is cut short"):
        StreamReader([b""], np.array([20]))
    with pytest.raises(UserError, match="stream 1: is cut short"):
        StreamReader([data, data], np.array([20, 0]))
