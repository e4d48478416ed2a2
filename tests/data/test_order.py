"""Row order: every token once per epoch, a new order each epoch, sources mixed by weight."""

from collections import Counter
from dataclasses import replace

import pytest

from llmjax.data.order import RowOrder, rows_per_epoch, steps_per_epoch
from llmjax.data.text.corpus import prepare
from llmjax.data.tokenizers.config import BytesConfig


def covered(order, rows, total, source=0):
    """How often each token of the stream occurs."""
    count = Counter()
    for number in rows:
        row = order[number]
        if row.source == source:
            count.update((row.start + i) % total for i in range(row.size))
    return count


def test_every_token_comes_once_an_epoch(small):
    corpus, config = small
    order, total = RowOrder(corpus, config, seed=3), corpus.num_tokens
    (rows,) = order.rows
    assert rows == -(-total // config.length)
    for epoch in range(3):
        count = covered(order, range(epoch * rows, (epoch + 1) * rows), total)
        assert count == Counter(range(total))


def test_rows_are_full_but_one_an_epoch(small):
    corpus, config = small
    order = RowOrder(corpus, config, seed=3)
    short = [order[i].size < config.length for i in range(order.rows[0])]
    assert sum(short) == (corpus.num_tokens % config.length > 0)


def test_epochs_and_seeds_differ_and_repeat(small):
    corpus, config = small
    order = RowOrder(corpus, config, seed=3)
    (rows,) = order.rows
    epochs = [[order[e * rows + i] for i in range(rows)] for e in range(3)]
    starts = [[row.start for row in epoch] for epoch in epochs]
    assert len(set(map(tuple, starts))) == 3
    assert len({frozenset(epoch) for epoch in starts}) == 3, "cut at other places"
    assert starts[0] != sorted(starts[0])
    again = RowOrder(corpus, config, seed=3)
    assert [again[i] for i in range(rows)] == epochs[0]
    other = RowOrder(corpus, config, seed=4)
    assert [other[i] for i in range(rows)] != epochs[0]


def test_a_mixture_keeps_its_proportions_everywhere(mixture):
    corpus, config = mixture
    order = RowOrder(corpus, config, seed=0)
    for begin in (0, 1000, 10**9):
        sources = Counter(order[begin + i].source for i in range(400))
        assert abs(sources[0] - 300) <= 2


def test_each_source_of_a_mixture_goes_through_its_own_epochs(mixture):
    corpus, config = mixture
    order = RowOrder(corpus, config, seed=0)
    for source, rows in enumerate(order.rows):
        numbers = (i for i in range(10**6) if order[i].source == source)
        for _ in range(2):
            epoch = [next(numbers) for _ in range(rows)]
            total = corpus.train[source].num_tokens
            assert covered(order, epoch, total, source) == Counter(range(total))


def test_an_epoch_ends_with_the_first_source_to_end(mixture, small):
    corpus, config = mixture
    order = RowOrder(corpus, config, seed=0)
    rows = rows_per_epoch(corpus, config)
    used = Counter(order[i].source for i in range(rows))
    assert all(used[source] <= have for source, have in enumerate(order.rows))
    later = Counter(order[i].source for i in range(rows + 8))
    assert any(later[source] > have for source, have in enumerate(order.rows))
    assert steps_per_epoch(corpus, config) == rows // config.batch_size
    assert steps_per_epoch(*small) == RowOrder(*small, 0).rows[0] // small[1].batch_size


@pytest.mark.parametrize("seed", [0, 2**31, 2**40])
def test_any_seed_will_do(small, seed):
    corpus, config = small
    assert RowOrder(corpus, config, seed)[10**12].size > 0


def test_sources_of_equal_text_come_in_different_orders(small):
    corpus, config = small
    twice = replace(config, sources=config.sources * 2)
    _, both = prepare(twice, BytesConfig())
    order = RowOrder(both, twice, seed=0)
    rows = [order[i] for i in range(40)]
    first, second = ([row.start for row in rows if row.source == s] for s in (0, 1))
    assert first != second
    assert corpus.num_tokens * 2 == both.num_tokens
