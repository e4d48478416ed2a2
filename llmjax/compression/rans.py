"""Entropy coding: exact conversion of integer intervals to bytes and back, in parallel streams.

The range variant of asymmetric numeral systems (J. Duda, "Asymmetric numeral systems", 2013). The
state of a stream is an integer x < 2^63. A symbol with the interval [start, start + freq) of
[0, 2^BITS) is encoded by

    x -> (x div freq) 2^BITS + start + (x mod freq)

after moving a 32-bit word of x to the output if the result would reach 2^63. Decoding inverts this:
x mod 2^BITS lies in the symbol's interval. The last symbol encoded is the first decoded, so the
encoder processes each stream backwards. A symbol costs log2(2^BITS / freq) bits.

x starts as 2^CHECK plus CHECK bits of a checksum of the symbols; the decoder must end with that
value and no words left. Once a word has been output, x is at least 2^31. A stream is its final x in
as few bytes as possible, little-endian, followed by the words; if there are words, x takes 5 to 8
bytes, so that the total size mod 4 determines how many. The overhead is about 22 bits per stream,
half of it because x is so small at the first symbol.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from llmjax.errors import UserError

BITS = 26
"""Frequencies sum to 2^BITS. With a vocabulary of 50,000 the minimum frequencies take 0.08 % of
it, which costs 0.001 bits per symbol; rounding of x costs less."""

CHECK = 8
"""Bits of a stream's checksum; the archive has longer ones."""

LOWEST = np.uint64(1 << 31)
WORD = np.uint64(32)
_MASK = np.uint64((1 << 32) - 1)
_SHIFT = np.uint64(BITS)
_SLOTS = np.uint64((1 << BITS) - 1)
MAX_STATE_BYTES = 8


def checksums(symbols: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the top CHECK bits of the CRC-32 of each stream's symbols: uint64 [streams].

    Args:
      symbols: integers [streams, steps], hashed as 32-bit integers.
      lengths: integers [streams]; symbols of each row that belong to the stream.
    """
    rows = zip(symbols.astype("<i4"), lengths, strict=True)
    return np.array([zlib.crc32(row[:n].tobytes()) >> 32 - CHECK for row, n in rows], np.uint64)


def write_streams(
    starts: np.ndarray, freqs: np.ndarray, lengths: np.ndarray, sums: np.ndarray
) -> list[bytes]:
    """Encodes the symbols of each stream.

    Args:
      starts, freqs: integers [streams, steps]; each interval is non-empty and within [0, 2^BITS).
      lengths: integers [streams]; symbols of each row that belong to the stream.
      sums: uint64 [streams], from `checksums`.

    Returns:
      The bytes of each stream; b"" for a stream without symbols.

    Raises:
      ValueError: an interval is empty or exceeds the range, so it could not be decoded.
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
    """Concatenates each stream's final state and its words, the last word first."""
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
    """Returns how many bytes of a stream of this size hold its state."""
    return size if size <= MAX_STATE_BYTES else MAX_STATE_BYTES - (-size % 4)


class StreamReader:
    """Decodes the output of `write_streams`, one symbol of each stream at a time.

    The caller finds the intervals that contain `targets`, and passes them to `advance`.
    """

    def __init__(self, streams: Sequence[bytes], lengths: np.ndarray):
        """Args:
          streams: the bytes of each stream.
          lengths: integers [streams]; symbols of each stream.

        Raises:
          UserError: a stream cannot have been written by `write_streams`.
        """
        self._lengths, self._step = np.asarray(lengths), 0
        sizes = np.array([len(data) for data in streams], np.int64)
        valid = (sizes > 0) == (self._lengths > 0)
        if not valid.all():
            stream = int(np.argmin(valid))
            raise UserError(f"stream {stream}", "is cut short", "the file is damaged")
        heads = [_state_bytes(len(data)) for data in streams]
        pairs = list(zip(streams, heads, strict=True))
        states = b"".join(data[:head].ljust(MAX_STATE_BYTES, b"\0") for data, head in pairs)
        self._state = np.frombuffer(states, "<u8").astype(np.uint64)
        # One extra word, for streams that read past their end.
        self._words = np.frombuffer(b"".join([d[n:] for d, n in pairs] + [bytes(4)]), "<u4")
        counts = (sizes - np.array(heads, np.int64)) // 4
        self._ends = np.cumsum(counts)
        self._next = self._ends - counts

    @property
    def targets(self) -> np.ndarray:
        """uint32 [streams]: a number inside the interval of each stream's next symbol."""
        return (self._state & _SLOTS).astype(np.uint32)

    def advance(self, starts: np.ndarray, freqs: np.ndarray) -> None:
        """Removes the symbols with these intervals from the streams that have symbols left.

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
        """Returns bool [streams]: whether each stream ended with its checksum and no words left.

        Args:
          sums: uint64 [streams], checksums of the decoded symbols.
        """
        complete = (self._state == np.uint64(1 << CHECK) + sums) & (self._next == self._ends)
        return complete | (self._lengths == 0)
