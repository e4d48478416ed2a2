"""Stages: what they may say, and that every stream of rows goes on where earlier stages left it."""

import hashlib
import itertools
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.data.config import DataConfig, data_problems
from llmjax.data.interleave import Interleaving
from llmjax.data.loader import CorpusFeed, Loader, batch_at, read_rows
from llmjax.data.order import (
    RowOrder,
    epochs_before,
    rows_of,
    rows_per_epoch,
    steps_per_epoch,
    steps_until_exhausted,
)
from llmjax.data.stages import StageConfig, changed_stages, resolve_stages, tokens_read
from llmjax.data.text.text_files import TextSource
from llmjax.errors import UserError
from llmjax.parallel.mesh import MeshConfig, make_mesh

LAST = 20
"""Steps of a run."""


def of_sizes(*tokens):
    """As much of a corpus as the order of its rows needs."""
    return SimpleNamespace(train=tuple(SimpleNamespace(num_tokens=count) for count in tokens))


def sources(*weights):
    return tuple(TextSource(("x",), weight=weight) for weight in weights)


def spans_of(order, step):
    rows = order.stage(step)
    first = rows.row(step)
    return [order[row] for row in range(first, first + rows.stage.batch_size)]


@st.composite
def staged_runs(draw):
    """(corpus, config) of up to three sources and four stages."""
    count = draw(st.integers(1, 3))
    weights = st.floats(0.1, 9.0)
    lengths = st.sampled_from([4, 8, 12])
    stages = []
    using = count
    for step in sorted(draw(st.sets(st.integers(0, LAST - 1), max_size=4))):
        chosen = draw(st.none() | st.permutations(range(count)))
        if chosen is not None:
            chosen = tuple(chosen[: draw(st.integers(1, count))])
            using = len(chosen)
        stage_weights = draw(st.none() | st.lists(weights, min_size=using, max_size=using))
        stages.append(
            StageConfig(
                step,
                chosen,
                None if stage_weights is None else tuple(stage_weights),
                draw(st.none() | lengths),
                draw(st.none() | st.integers(1, 3)),
            )
        )
    tokens = draw(st.lists(st.integers(20, 120), min_size=count, max_size=count))
    config = DataConfig(
        sources(*draw(st.lists(weights, min_size=count, max_size=count))),
        batch_size=draw(st.integers(1, 3)),
        length=draw(lengths),
        stages=tuple(stages),
    )
    assert data_problems(config) == []
    return of_sizes(*tokens), config


@settings(deadline=None, max_examples=20)
@given(staged_runs(), st.integers(0, 2**32 - 1))
def test_no_token_comes_twice_before_an_epoch_of_its_source_and_length_is_complete(run, seed):
    corpus, config = run
    order = RowOrder(corpus, config, seed)
    streams = {}
    for step in range(LAST):
        length = order.stage(step).stage.length
        for span in spans_of(order, step):
            streams.setdefault((span.source, length), []).append(span)
    for (source, length), spans in streams.items():
        total = corpus.train[source].num_tokens
        rows = rows_of(total, length)
        for begin in range(0, len(spans), rows):
            epoch = spans[begin : begin + rows]
            count = Counter((s.start + i) % total for s in epoch for i in range(s.size))
            assert max(count.values()) == 1
            assert len(epoch) < rows or len(count) == total


@settings(deadline=None, max_examples=10)
@given(staged_runs(), st.integers(0, 99))
def test_a_stage_reads_its_sources_by_their_weights_and_row_numbers_are_consecutive(run, seed):
    corpus, config = run
    order = RowOrder(corpus, config, seed)
    numbers, counts = [], {}
    for step in range(LAST):
        rows = order.stage(step)
        numbers += range(rows.row(step), rows.row(step) + rows.stage.batch_size)
        counts.setdefault(rows.stage, Counter()).update(s.source for s in spans_of(order, step))
    assert numbers == list(range(len(numbers)))
    for stage, count in counts.items():
        assert set(count) <= set(stage.sources)
        for source, weight in zip(stage.sources, stage.weights, strict=True):
            share = count.total() * weight / sum(stage.weights)
            # Weights are rounded to hundredths of the lowest; each source rounds to whole rows.
            assert abs(count[source] - share) < 2 + 0.02 * count.total()


@settings(deadline=None, max_examples=10)
@given(staged_runs(), st.integers(0, LAST), st.integers(0, 99))
def test_stages_to_come_change_nothing_before_them(run, step, seed):
    corpus, config = run
    begun = tuple(stage for stage in config.stages if stage.step < step)
    shorter = replace(config, stages=begun)
    orders = RowOrder(corpus, config, seed), RowOrder(corpus, shorter, seed)
    for number in range(step):
        assert spans_of(orders[0], number) == spans_of(orders[1], number)
    assert changed_stages(shorter.all_stages(), config.all_stages(), step) == []


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5),
    st.integers(0, 10**12),
    st.lists(st.integers(1, 10**6), min_size=5, max_size=5),
)
def test_rows_are_merged_as_grain_merges_them(weights, row, sizes):
    import grain

    sizes = sizes[: len(weights)]
    streams = [
        grain.MapDataset.range(size).map(lambda key, i=i: (i, key)) for i, size in enumerate(sizes)
    ]
    mixed, merged = grain.MapDataset.mix(streams, weights), Interleaving(weights)
    assert merged.rows_within(sizes) == len(mixed)
    endless = grain.MapDataset.mix([stream.repeat() for stream in streams], weights)
    for number in range(row, row + 5):
        stream, key = merged[number]
        assert (stream, key % sizes[stream]) == endless[number]
    counts = merged.counts(row)
    assert sum(counts) == row
    assert all(merged[number][1] >= counts[merged[number][0]] for number in range(row, row + 5))


@pytest.mark.parametrize(
    ("tokens", "weights", "length", "seed", "digest", "rows"),
    [
        ((1000,), (1.0,), 16, 3, "d6c535eda07a6166", 63),
        ((1000, 777, 5000), (0.7, 0.3, 1.9), 16, 7, "3a8f19fdcb7768fa", 261),
        ((10**12, 3, 10**9), (5, 1e-3, 2.0), 1024, 2**31, "c4eedd4638c56464", 7001),
    ],
)
def test_the_order_without_stages_is_that_of_earlier_versions(
    tokens, weights, length, seed, digest, rows
):
    corpus = of_sizes(*tokens)
    config = DataConfig(sources(*weights), batch_size=8, length=length)
    order = RowOrder(corpus, config, seed)
    numbers = [*range(300), *range(10**9, 10**9 + 50)]
    spans = [(s.source, s.start, s.size) for s in map(order.__getitem__, numbers)]
    assert hashlib.sha256(repr(spans).encode()).hexdigest()[:16] == digest
    assert rows_per_epoch(corpus, config) == rows
    assert steps_until_exhausted(corpus, config) == steps_per_epoch(corpus, config) == rows // 8


def test_what_is_left_out_stays_as_before():
    config = DataConfig(
        sources(1.0, 2.0, 3.0),
        batch_size=8,
        length=16,
        stages=(
            StageConfig(4, weights=(5.0, 5.0, 1.0)),
            StageConfig(6, length=32, batch_size=4),
            StageConfig(9, sources=(2, 0)),
            StageConfig(12, weights=(1.0, 9.0)),
        ),
    )
    stages = config.all_stages()
    assert [stage.first_step for stage in stages] == [0, 4, 6, 9, 12]
    assert [stage.shape for stage in stages] == [(8, 16), (8, 16), (4, 32), (4, 32), (4, 32)]
    assert [stage.sources for stage in stages] == [(0, 1, 2)] * 3 + [(2, 0)] * 2
    assert stages[2].weights == (5.0, 5.0, 1.0)
    assert stages[3].weights == (3.0, 1.0), "those of the sources"
    assert stages[4].weights == (1.0, 9.0)
    at_once = replace(config, stages=(StageConfig(0, sources=(1,)), StageConfig(4, length=8)))
    assert [stage.sources for stage in at_once.all_stages()] == [(1,), (1,)]


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ((StageConfig(-1),), "data.stages.0.step: -1 is negative"),
        ((StageConfig(5), StageConfig(5)), "data.stages.1.step: 5 is not after 5"),
        ((StageConfig(5, sources=()),), "data.stages.0.sources: give at least one"),
        ((StageConfig(5, sources=(0, 0)),), "data.stages.0.sources: a source is named twice"),
        ((StageConfig(5, sources=(2,)),), "data.stages.0.sources: 2 is not an index of the 2"),
        ((StageConfig(5, sources=(-1,)),), "data.stages.0.sources: -1 is not an index of the 2"),
        (
            (StageConfig(5, weights=(1.0,)),),
            "data.stages.0.weights: 1 weights, and sources to read: 2",
        ),
        (
            (StageConfig(5, sources=(1,)), StageConfig(6, weights=(1.0, 1.0))),
            "data.stages.1.weights: 2 weights, and sources to read: 1",
        ),
        ((StageConfig(5, weights=(1.0, 0.0)),), "data.stages.0.weights: every weight must be"),
        ((StageConfig(5, length=1),), "data.stages.0.length: 1 is less than 2"),
        ((StageConfig(5, batch_size=0),), "data.stages.0.batch_size: 0 is not positive"),
        (
            (StageConfig(5, length=2**20), StageConfig(6, batch_size=2**10)),
            "data.stages.1.batch_size: 1024 rows of 1048576 tokens are more than the 268435456",
        ),
    ],
)
def test_each_mistake_is_named(stages, problem):
    config = DataConfig(sources(1.0, 1.0), batch_size=4, stages=stages)
    (found,) = data_problems(config)
    assert found.startswith(problem)


def test_changes_of_stages_that_have_begun_are_named():
    config = DataConfig(sources(1.0, 1.0), batch_size=4, length=16, stages=(StageConfig(6, (0,)),))
    old = config.all_stages()
    longer = replace(config, stages=(StageConfig(6, (0,), length=32),)).all_stages()
    assert changed_stages(old, longer, 6) == []
    assert changed_stages(old, longer, 7) == [
        "data.stages.0 from step 6: 4 rows of 16 tokens of sources 0 (weight 1.0) -> "
        "from step 6: 4 rows of 32 tokens of sources 0 (weight 1.0)"
    ]
    added = replace(config, stages=(*config.stages, StageConfig(9, length=8))).all_stages()
    assert changed_stages(old, added, 9) == []
    (change,) = changed_stages(old, added, 10)
    assert change.startswith("data.stages.1 absent -> from step 9: 4 rows of 8 tokens")
    (change,) = changed_stages(added, old, 10)
    assert change.endswith("-> absent")


@pytest.fixture
def staged(mixture):
    """Rows of 16, then of 32 in half as many rows and another mixture, then of 16 again."""
    corpus, config = mixture
    stages = (
        StageConfig(3, weights=(1.0, 3.0), length=32, batch_size=4),
        StageConfig(5, length=16, batch_size=8),
    )
    return corpus, replace(config, stages=stages)


def equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]), name)


def test_the_loader_yields_batches_of_each_shape_and_resumes_in_any_stage(staged):
    feed = CorpusFeed(*staged, seed=5)
    assert len(feed.specs) == 2, "the third stage has the shape of the first"
    assert [feed.task(step) for step in range(7)] == [0, 0, 0, 1, 1, 0, 0]
    expected = [batch_at(*staged, 5, step) for step in range(7)]
    shapes = [(8, 16)] * 3 + [(4, 32)] * 2 + [(8, 16)] * 2
    assert [batch["inputs"].shape for batch in expected] == shapes
    for start in (0, 3, 4, 6):
        with Loader(feed, None, start) as loader:
            for step, batch in itertools.islice(loader, 7 - start):
                equal(batch, expected[step])


def test_any_mesh_and_any_number_of_hosts_read_the_same_batches(staged):
    corpus, config = staged
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, sequence=2))
    with Loader(CorpusFeed(corpus, config, 5), mesh, 2) as loader:
        for step, batch in itertools.islice(loader, 4):
            equal(batch, batch_at(corpus, config, 5, step))
    order = RowOrder(corpus, config, 5)
    shares = [read_rows(corpus, order, 4, rows) for rows in ((0, 1), (2, 3))]
    joined = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    equal(joined, batch_at(corpus, config, 5, 4))


def test_a_run_is_exhausted_where_the_first_stream_ends():
    corpus = of_sizes(160, 1600)
    config = DataConfig(
        sources(1.0, 1.0),
        batch_size=4,
        length=16,
        on_exhaustion="stop",
        stages=(StageConfig(2, (1,)),),
    )
    # 4 of 10 rows of the first source are read before it is left out; then 4 + 96 of the second.
    assert steps_until_exhausted(corpus, config) == 2 + 96 // 4
    again = replace(config, stages=(*config.stages, StageConfig(10, (0,))))
    assert steps_until_exhausted(corpus, again) == 10 + 6 // 4
    longer = replace(config, stages=(StageConfig(2, (0,), length=32),))
    assert steps_until_exhausted(corpus, longer) == 2 + 5 // 4, "a stream of its own"


def test_epochs_are_counted_stage_by_stage():
    corpus = of_sizes(640, 320)
    config = DataConfig(
        sources(1.0, 1.0),
        batch_size=4,
        length=16,
        stages=(StageConfig(5, sources=(0,)), StageConfig(10, length=32, batch_size=2)),
    )
    stages = config.all_stages()
    assert epochs_before(corpus, stages, 5) == 5 / 10  # 20 rows of each in 10 steps
    assert epochs_before(corpus, stages, 10) == 5 / 10 + 5 / 10  # 40 rows
    assert epochs_before(corpus, stages, 13) == 1 + 3 / 10  # 20 rows of 32
    plain = replace(config, stages=())
    assert epochs_before(corpus, plain.all_stages(), 7) == 7 / steps_per_epoch(corpus, plain)


def test_batches_of_a_stage_that_do_not_divide_are_refused(staged):
    corpus, config = staged
    with pytest.raises(UserError, match="batch dimension of 4 does not divide over mesh"):
        Loader(CorpusFeed(corpus, config, 0), make_mesh(MeshConfig(fsdp=8)))


def test_tokens_read_of_each_source():
    stages = resolve_stages(
        (StageConfig(10, weights=(1.0, 1.0)), StageConfig(20, length=32)), (3.0, 1.0), 16, 4
    )
    assert tokens_read(stages, 10) == {0: 30 * 16, 1: 10 * 16}
    assert tokens_read(stages, 15) == {0: 40 * 16, 1: 20 * 16}
    assert tokens_read(stages, 60) == {0: 80 * 32, 1: 80 * 32}
