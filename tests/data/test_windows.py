"""Windows of the stream equal a slow reference implementation."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmjax.data.objectives.causal import Causal
from llmjax.data.objectives.windows import read_windows
from llmjax.data.text.store import TokenStore

BOS, EOS, PAD = 901, 900, 902
DOCUMENTS = st.lists(st.integers(0, 7), min_size=1, max_size=8)


def store_of(sizes: list[int]) -> TokenStore:
    """Documents of these sizes, whose tokens count from 1 across all documents, each with EOS."""
    tokens, offsets, count = [], [0], 0
    for size in sizes:
        tokens += [*range(count + 1, count + size + 1), EOS]
        count += size
        offsets.append(len(tokens))
    zeros = np.zeros(len(offsets), np.int64)
    array = np.array(tokens, np.uint16)
    return TokenStore(array, np.array(offsets, np.int64), zeros, zeros[1:].view(np.uint64))


def slow_row(store: TokenStore, start: int, size: int, length: int) -> dict[str, list]:
    """A row of the causal batch, token by token."""
    begins = set(store.offsets[:-1].tolist())
    row = {name: [] for name in ("inputs", "targets", "weights", "segments", "positions")}
    segment, position = 0, 0
    for column in range(length):
        index = (start + column) % len(store.tokens)
        if column >= size:
            values = (PAD, PAD, 0.0, 0, 0)
        else:
            is_first = index in begins
            if is_first or column == 0:
                segment, position = segment + 1, 0
            previous = BOS if is_first else int(store.tokens[index - 1])
            values = (previous, int(store.tokens[index]), 1.0, segment, position)
            position += 1
        for name, value in zip(row, values, strict=True):
            row[name].append(value)
    return row


@given(sizes=DOCUMENTS, data=st.data(), length=st.integers(1, 20))
def test_windows_equal_the_slow_reference(sizes, data, length):
    store = store_of(sizes)
    total = store.num_tokens
    row = st.tuples(st.integers(0, total - 1), st.integers(1, min(total, length)))
    rows = data.draw(st.lists(row, min_size=1, max_size=5))
    starts, real = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    batch = Causal(BOS, PAD).batch(read_windows(store, starts, real, length), ())
    for index, (start, size) in enumerate(rows):
        expected = slow_row(store, start, size, length)
        assert {name: values[index].tolist() for name, values in batch.items()} == expected


def test_types_and_shapes():
    cut = read_windows(store_of([3, 2]), np.array([0, 2]), np.array([4, 3]), 4)
    batch = Causal(BOS, PAD).batch(cut, ())
    assert {values.shape for values in batch.values()} == {(2, 4)}
    kinds = {name: values.dtype for name, values in batch.items()}
    assert kinds.pop("weights") == np.float32
    assert set(kinds.values()) == {np.dtype(np.int32)}


def test_an_example_to_read():
    """Documents 1 2 3 EOS and 4 5 EOS; the row begins within the first."""
    batch = Causal(BOS, PAD).batch(
        read_windows(store_of([3, 2]), np.array([1]), np.array([7]), 8), ()
    )
    assert batch["inputs"].tolist() == [[1, 2, 3, BOS, 4, 5, BOS, PAD]]
    assert batch["targets"].tolist() == [[2, 3, EOS, 4, 5, EOS, 1, PAD]]
    assert batch["segments"].tolist() == [[1, 1, 1, 2, 2, 2, 3, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 2, 0, 0]]
    assert batch["weights"].tolist() == [[1, 1, 1, 1, 1, 1, 1, 0]]
