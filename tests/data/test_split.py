"""The validation split depends only on content."""

import random

from hypothesis import given
from hypothesis import strategies as st

from llmjax.data.text.cache import SeenHashes
from llmjax.data.text.split import (
    HASHES,
    HashSample,
    document_hash,
)

TEXTS = st.lists(st.binary(min_size=1, max_size=30), unique=True, max_size=60)


@given(texts=TEXTS, threshold=st.integers(0, HASHES), limit=st.integers(1, 400))
def test_a_sample_is_the_documents_of_lowest_hash(texts, threshold, limit):
    sample = HashSample(threshold, limit)
    left = [left for text in texts for left in sample.add(document_hash(text), text)]
    kept = sample.documents()
    assert sorted(kept + left) == sorted(texts), "every document is on one side"
    assert all(document_hash(text) < sample.threshold <= threshold for text in kept)
    assert all(document_hash(text) >= sample.threshold for text in left)
    assert sum(map(len, kept)) <= limit or len(kept) == 1
    assert kept == [text for text in texts if text in kept], "in the order they came"


@given(texts=TEXTS, threshold=st.integers(0, HASHES), limit=st.integers(1, 400))
def test_a_sample_does_not_depend_on_the_order_while_it_fits(texts, threshold, limit):
    samples = []
    for order in (texts, texts[::-1]):
        sample = HashSample(threshold, limit)
        for text in order:
            sample.add(document_hash(text), text)
        samples.append((sorted(sample.documents()), sample.threshold))
    assert samples[0] == samples[1]


def test_hashes_are_spread_evenly():
    hashes = [document_hash(str(i).encode()) for i in range(4000)]
    for share in (0.05, 0.5, 0.9):
        below = sum(h < share * HASHES for h in hashes) / len(hashes)
        assert abs(below - share) < 0.03


def test_seen_is_exact_while_it_is_not_full():
    generator = random.Random(0)
    hashes = [generator.randrange(HASHES) for _ in range(3000)]
    seen = SeenHashes(buckets=1 << 12)
    assert not any(seen.add(h) for h in hashes)
    assert all(seen.add(h) for h in hashes)


def test_seen_forgets_the_oldest_and_never_claims_what_it_did_not_see():
    seen = SeenHashes(buckets=4, depth=2)
    hashes = [4 * i for i in range(1, 6)]  # all in one bucket
    assert not any(seen.add(h) for h in hashes)
    assert [seen.add(h) for h in hashes[-2:]] == [True, True]
    assert not seen.add(hashes[0])
