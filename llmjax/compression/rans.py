"""Entropy coding: integer intervals to bytes and back, many parallel streams at once, exactly.

The range variant of asymmetric numeral systems (J. Duda, "Asymmetric numeral systems", 2013). The
state of a stream is an integer x < 2^63. A symbol that owns the interval [start, start + freq) of
[0, 2^BITS) is written by

    x -> (x div freq) 2^BITS + start + (x mod freq)

after a 32-bit word has left x where the result would not stay below 2^63, and read by the inverse:
x mod 2^BITS lies in its interval. What is written last is read first, so the writer goes through
the symbols of a stream backwards. It costs log2(2^BITS / freq) bits per symbol.

x starts as 2^CHECK plus CHECK bits of a checksum of the symbols, and the reader must end there with
all words used. From the first word on it is 2^31 or more. A stream is its last x in as few bytes as
hold it, least significant first, but in 5 to 8 where words follow, so that the total size mod 4
gives their number. All this costs about 22 bits per stream, half of them because the first symbol
is written into so small an x.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from llmjax.errors import UserError

BITS = 26
"""Frequencies sum to 2^BITS. With a vocabulary of 50,000 the minimum frequencies take 0.08 % of
it, which costs 0.001 bits per symbol; rounding of x costs less than that."""

CHECK = 8
"""Bits of a stream's checksum; the archive as a whole has longer ones."""

LOWEST = np.uint64(1 << 31)
WORD = np.uint64(32)
_MASK = np.uint64((1 << 32) - 1)
_SHIFT = np.uint64(BITS)
_SLOTS = np.uint64((1 << BITS) - 1)
MAX_STATE_BYTES = 8


def checksums(symbols: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The first CHECK bits of the CRC-32 of each stream's symbols: uint64 [streams].

    Args:
      symbols: integers [streams, steps], hashed as 32-bit integers.
      lengths: integers [streams]; how many of each row belong to the stream.
    """
    rows = zip(symbols.astype("<i4"), lengths, strict=True)
    return np.array([zlib.crc32(row[:n].tobytes()) >> 32 - CHECK for row, n in rows], np.uint64)


def write_streams(
    starts: np.ndarray, freqs: np.ndarray, lengths: np.ndarray, sums: np.ndarray
) -> list[bytes]:
    """Encodes the symbols of each stream.

    Args:
      starts, freqs: integers [streams, steps]; each interval is non-empty and within [0, 2^BITS).
      lengths: integers [streams]; how many of each row belong to the stream.
      sums: uint64 [streams], from `checksums`.

    Returns:
      The bytes of each stream; b"" for one without symbols.

    Raises:
      ValueError: an interval is empty or leaves the range, so that nothing could be read back.
    """
    starts, freqs = starts.astype(np.uint64), freqs.astype(np.uint64)
    coded = np.arange(starts.shape[1]) < lengths[:, None]
    total = np.uint64(1 << BITS)
    if not ((freqs > 0) & (freqs <= total) & (starts <= total - freqs))[coded].all():
        raise ValueError("an interval is empty or leaves the range of frequencies")
    state = np.uint64(1 << CHECK) + sums
    words: list[tuple[np.ndarray, np.ndarray]] = []
    for step in range(starts.shape[1] - 1, -1, -1):
        active = coded[:, step]
        freq = np.where(active, freqs[:, step], 1)
        full = active & (state >> np.uint64(63 - BITS) >= freq)
        if full.any():
            words.append((np.flatnonzero(full), (state[full] & _MASK).astype("<u4")))
            state = np.where(full, state >> WORD, state)
        quotient, rest = np.divmod(state, freq)
        state = np.where(active, (quotient << _SHIFT) + starts[:, step] + rest, state)
    return _join(state, words, lengths)


def _join(
    state: np.ndarray, words: Sequence[tuple[np.ndarray, np.ndarray]], lengths: np.ndarray
) -> list[bytes]:
    """Final states, each followed by its stream's words, last written first."""
    streams = np.concatenate([index for index, _ in reversed(words)] or [np.zeros(0, np.int64)])
    values = np.concatenate([value for _, value in reversed(words)] or [np.zeros(0, "<u4")])
    order = np.argsort(streams, kind="stable")
    ends = np.searchsorted(streams[order], np.arange(len(lengths) + 1))
    values = values[order]
    encoded = []
    for stream, x in enumerate(state.tolist()):
        tail = values[ends[stream] : ends[stream + 1]].tobytes()
        size = max(-(-x.bit_length() // 8), 5 if tail else 0)
        encoded.append(x.to_bytes(size, "little") + tail if lengths[stream] else b"")
    return encoded


def _state_bytes(size: int) -> int:
    """How many bytes of a stream of this size are its state."""
    return size if size <= MAX_STATE_BYTES else MAX_STATE_BYTES - (-size % 4)


class StreamReader:
    """Reads back what `write_streams` wrote, one symbol of every stream at a time.

    `targets` says where the next symbol of each stream lies; the caller finds the intervals that
    contain those numbers, and `advance` removes them.
    """

    def __init__(self, streams: Sequence[bytes], lengths: np.ndarray):
        """Args:
          streams: the bytes of each.
          lengths: integers [streams]; symbols of each.

        Raises:
          UserError: a stream cannot have been written by `write_streams`.
        """
        self._lengths, self._step = np.asarray(lengths), 0
        sizes = np.array([len(data) for data in streams], np.int64)
        fits = (sizes > 0) == (self._lengths > 0)
        if not fits.all():
            raise UserError(f"stream {int(np.argmin(fits))}", "is cut short", "the file is damaged")
        heads = [_state_bytes(len(data)) for data in streams]
        pairs = list(zip(streams, heads, strict=True))
        states = b"".join(data[:head].ljust(MAX_STATE_BYTES, b"\0") for data, head in pairs)
        self._state = np.frombuffer(states, "<u8").astype(np.uint64)
        # One extra word, for streams that look beyond their end.
        self._words = np.frombuffer(b"".join([d[n:] for d, n in pairs] + [bytes(4)]), "<u4")
        counts = (sizes - np.array(heads, np.int64)) // 4
        self._ends = np.cumsum(counts)
        self._next = self._ends - counts

    @property
    def targets(self) -> np.ndarray:
        """uint32 [streams]: a number within the interval of each stream's next symbol."""
        return (self._state & _SLOTS).astype(np.uint32)

    def advance(self, starts: np.ndarray, freqs: np.ndarray) -> None:
        """Removes the symbols that own these intervals from the streams that have any left.

        Args:
          starts, freqs: integers [streams].
        """
        active = self._step < self._lengths
        self._step += 1
        offset = (self._state & _SLOTS) - starts.astype(np.uint64)
        after = freqs.astype(np.uint64) * (self._state >> _SHIFT) + offset
        self._state = np.where(active, after, self._state)
        low = active & (self._state < LOWEST) & (self._next < self._ends)
        if low.any():
            word = self._words[np.where(low, self._next, -1)].astype(np.uint64)
            self._state = np.where(low, (self._state << WORD) | word, self._state)
            self._next += low

    def finished(self, sums: np.ndarray) -> np.ndarray:
        """bool [streams]: whether each ended with its checksum and nothing left over.

        Args:
          sums: uint64 [streams], of the symbols that were read.
        """
        fits = (self._state == np.uint64(1 << CHECK) + sums) & (self._next == self._ends)
        return fits | (self._lengths == 0)
