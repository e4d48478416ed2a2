"""Splits off validation documents by the hashes of their content."""

import hashlib
import heapq

HASHES = 1 << 64


def document_hash(text: bytes) -> int:
    """A 64-bit hash of a document's content."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class HashSample:
    """The documents of lowest hash, below a threshold and up to a total size.

    Documents that do not fit lower the threshold. So the sample is exactly the documents with a
    hash below `threshold`: uniform, and independent of the order of documents.
    """

    def __init__(self, threshold: int, max_bytes: int):
        self.threshold = threshold
        self._max_bytes, self._bytes = max_bytes, 0
        self._heap: list[tuple[int, int, bytes]] = []  # largest hash first
        self._count = 0

    def add(self, hash_: int, text: bytes) -> list[bytes]:
        """Adds a document; returns the documents rejected or evicted.

        A single document stays even if it exceeds the sample's size.
        """
        if hash_ >= self.threshold:
            return [text]
        self._count += 1
        heapq.heappush(self._heap, (-hash_, self._count, text))
        self._bytes += len(text)
        evicted = []
        while self._bytes > self._max_bytes and len(self._heap) > 1:
            negative, _, largest = heapq.heappop(self._heap)
            self.threshold = -negative
            self._bytes -= len(largest)
            evicted.append(largest)
        return evicted

    def documents(self) -> list[bytes]:
        """The documents of the sample, in the order in which they were added."""
        return [text for _, _, text in sorted(self._heap, key=lambda item: item[1])]
