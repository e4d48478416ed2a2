"""Which documents are for validation, decided by their content alone."""

import hashlib
import heapq

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
            negative, _, largest = heapq.heappop(self._heap)
            self.threshold = -negative
            self._bytes -= len(largest)
            evicted.append(largest)
        return evicted

    def documents(self) -> list[bytes]:
        """What the sample holds, in the order in which it came."""
        return [text for _, _, text in sorted(self._heap, key=lambda item: item[1])]
