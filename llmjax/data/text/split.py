"""Which documents are held out, decided by their content alone."""

import hashlib
import heapq

import numpy as np

HASHES = 1 << 64


def document_hash(text: bytes) -> int:
    """Uniform in 0 ... 2^64 - 1; equal texts have equal hashes, wherever they stand."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class HashSample:
    """Of all documents whose hash is below a threshold, those of lowest hash that fit a size.

    What does not fit lowers the threshold. So in the end the sample is every document with a hash
    below `threshold`, and no other: a uniform one, independent of the documents' order.
    """

    def __init__(self, threshold: int, max_bytes: int):
        self.threshold = threshold
        self._max_bytes, self._bytes = max_bytes, 0
        self._heap: list[tuple[int, int, bytes]] = []  # largest hash first
        self._count = 0

    def add(self, hash_: int, text: bytes) -> list[bytes]:
        """Takes a document in; returns those that the sample does not hold, or not any more.

        The first document stays even when it alone is larger than the sample may be.
        """
        if hash_ >= self.threshold:
            return [text]
        self._count += 1
        heapq.heappush(self._heap, (-hash_, self._count, text))
        self._bytes += len(text)
        evicted = []
        while self._bytes > self._max_bytes and len(self._heap) > 1:
            negative, _, other = heapq.heappop(self._heap)
            self.threshold = -negative
            self._bytes -= len(other)
            evicted.append(other)
        return evicted

    def documents(self) -> list[bytes]:
        """What the sample holds, in the order in which it came."""
        return [text for _, _, text in sorted(self._heap, key=lambda item: item[1])]


class Seen:
    """A set of hashes in a fixed 64 MiB: exact for the first million or so, then forgetful.

    Each hash belongs to one of 2^20 buckets of 8; a full bucket forgets its oldest.
    """

    def __init__(self, buckets: int = 1 << 20, depth: int = 8):
        self._table = np.zeros((buckets, depth), np.uint64)
        self._next = np.zeros(buckets, np.uint8)

    def add(self, hash_: int) -> bool:
        """Adds the hash; returns whether it was there. (0 marks an empty place, and is never.)"""
        key = np.uint64(hash_)
        bucket = hash_ % len(self._table)
        row = self._table[bucket]
        if key in row:
            return hash_ != 0
        row[self._next[bucket]] = key
        self._next[bucket] = (self._next[bucket] + 1) % row.size
        return False
