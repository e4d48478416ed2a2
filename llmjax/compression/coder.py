"""Entropy coding: intervals of integers to bytes and back, many lanes at once, in exact arithmetic.

The range variant of asymmetric numeral systems (J. Duda, "Asymmetric numeral systems", 2013). A
lane's state is an integer x < 2^63. A symbol that owns the interval [start, start + freq) of
[0, 2^BITS) is written by

    x -> (x div freq) 2^BITS + start + (x mod freq)

after a 32-bit word has left x where the result would not stay below 2^63, and read by the inverse:
x mod 2^BITS lies in its interval. What is written last is read first, so the writer goes through a
lane's symbols backwards. It costs log2(2^BITS / freq) bits a symbol.

x begins as 2^CHECK plus CHECK bits of a checksum of the symbols, with which the reader ends, all
words used. From the first word on it is 2^31 or more. A lane is its last x in as few bytes as hold
it, least significant first, but in 5 to 8 where words follow, so that the size of the whole, mod 4,
tells how many there are. All this costs some 22 bits a lane, half of them since the first symbol is
written into so small an x.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from llmjax.errors import UserError

BITS = 26
"""Frequencies sum to 2^BITS. At a vocabulary of 50,000 the ones that every symbol gets take 0.08 %
of it, thus 0.001 bits a symbol, and what is lost to rounding of x less than that."""

CHECK = 8
"""Bits of a lane's checksum; those of the whole archive are longer."""

LOWEST = np.uint64(1 << 31)
WORD = np.uint64(32)
_MASK = np.uint64((1 << 32) - 1)
_SHIFT = np.uint64(BITS)
_SLOTS = np.uint64((1 << BITS) - 1)
LONGEST_STATE = 8


def checksums(symbols: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """uint64 [lanes], below 2^CHECK: of the CRC-32 of each lane's symbols, as 32-bit integers.

    Args:
      symbols: integers [lanes, steps].
      lengths: integers [lanes]; symbols of each lane, the first ones of its row.
    """
    rows = zip(symbols.astype("<i4"), lengths, strict=True)
    return np.array([zlib.crc32(row[:n].tobytes()) >> 32 - CHECK for row, n in rows], np.uint64)


def write_lanes(
    starts: np.ndarray, freqs: np.ndarray, lengths: np.ndarray, sums: np.ndarray
) -> list[bytes]:
    """Codes each lane's symbols.

    Args:
      starts, freqs: integers [lanes, steps]; each interval lies in [0, 2^BITS) and is not empty.
      lengths: integers [lanes]; symbols of each lane, the first ones of its row.
      sums: uint64 [lanes], from `checksums`.

    Returns:
      The bytes of each lane; b"" for one without symbols.

    Raises:
      ValueError: an interval is empty or leaves the range, so that nothing could be read back.
    """
    starts, freqs = starts.astype(np.uint64), freqs.astype(np.uint64)
    coded = np.arange(starts.shape[1]) < lengths[:, None]
    whole = np.uint64(1 << BITS)
    if not ((freqs > 0) & (freqs <= whole) & (starts <= whole - freqs))[coded].all():
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
    return _gather(state, words, lengths)


def _gather(
    state: np.ndarray, words: Sequence[tuple[np.ndarray, np.ndarray]], lengths: np.ndarray
) -> list[bytes]:
    """Final states, and then the words, last written first."""
    lanes = np.concatenate([lane for lane, _ in reversed(words)] or [np.zeros(0, np.int64)])
    values = np.concatenate([value for _, value in reversed(words)] or [np.zeros(0, "<u4")])
    order = np.argsort(lanes, kind="stable")
    ends = np.searchsorted(lanes[order], np.arange(len(lengths) + 1))
    values = values[order]
    found = []
    for lane, x in enumerate(state.tolist()):
        follow = values[ends[lane] : ends[lane + 1]].tobytes()
        size = max(-(-x.bit_length() // 8), 5 if follow else 0)
        found.append(x.to_bytes(size, "little") + follow if lengths[lane] else b"")
    return found


def _state_bytes(size: int) -> int:
    """How many of a lane's bytes are its state."""
    return size if size <= LONGEST_STATE else LONGEST_STATE - (-size % 4)


class LaneReader:
    """Reads back what `write_lanes` wrote, a symbol of every lane at a time.

    `targets` says where each lane's next symbol lies; the caller finds the intervals that hold
    those numbers, and `advance` takes them off.
    """

    def __init__(self, lanes: Sequence[bytes], lengths: np.ndarray):
        """Args:
          lanes: the bytes of each.
          lengths: integers [lanes]; symbols of each.

        Raises:
          UserError: a lane's bytes cannot have been written by `write_lanes`.
        """
        self._lengths, self._step = np.asarray(lengths), 0
        sizes = np.array([len(data) for data in lanes], np.int64)
        fits = (sizes > 0) == (self._lengths > 0)
        if not fits.all():
            raise UserError(f"lane {int(np.argmin(fits))}", "is cut short", "the file is damaged")
        heads = [_state_bytes(len(data)) for data in lanes]
        pairs = list(zip(lanes, heads, strict=True))
        states = b"".join(data[:head].ljust(LONGEST_STATE, b"\0") for data, head in pairs)
        self._state = np.frombuffer(states, "<u8").astype(np.uint64)
        # One word more than there is, for lanes that look beyond their end.
        self._words = np.frombuffer(b"".join([d[n:] for d, n in pairs] + [bytes(4)]), "<u4")
        counts = (sizes - np.array(heads, np.int64)) // 4
        self._ends = np.cumsum(counts)
        self._next = self._ends - counts

    @property
    def targets(self) -> np.ndarray:
        """uint32 [lanes]: a number in the interval of each lane's next symbol."""
        return (self._state & _SLOTS).astype(np.uint32)

    def advance(self, starts: np.ndarray, freqs: np.ndarray) -> None:
        """Takes the symbols that own these intervals off the lanes that have any left.

        Args:
          starts, freqs: integers [lanes].
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
        """bool [lanes]: whether each came out as one of these checksums begins, nothing left over.

        Args:
          sums: uint64 [lanes], of what was read.
        """
        fits = (self._state == np.uint64(1 << CHECK) + sums) & (self._next == self._ends)
        return fits | (self._lengths == 0)
