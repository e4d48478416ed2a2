"""Batches of tasks: functions of seed and step, computed without the steps before them."""

import math

import numpy as np
import pytest

from llmjax.tasks.examples import Example, Segment
from llmjax.tasks.feed import BLOCK, Source, TaskFeed
from llmjax.tasks.packing import pack, shape_of

SEED = 3
LENGTH = 16
BATCH = 4


def examples_of(lengths):
    """Examples whose target is their index."""
    return [
        Example((Segment([n] * size),), np.array([n], np.float32), 1.0, n)
        for n, size in enumerate(lengths)
    ]


LENGTHS = np.random.default_rng(0).integers(1, 12, 90).tolist()
EXAMPLES = examples_of(LENGTHS)
SHAPE = shape_of(EXAMPLES, LENGTH, encodes=False)


def feed_of(*sources, batch_size=BATCH):
    return TaskFeed(sources, batch_size, SEED)


def held(arrays):
    """The example indices of each row."""
    targets, weights = arrays["slot_targets"][..., 0], arrays["slot_weights"] > 0
    return [targets[row][weights[row]].astype(int).tolist() for row in range(len(targets))]


def rows_from(feed, steps):
    return [row for step in steps for row in held(feed.read(step, range(BATCH)))]


def repacked(epochs):
    """The rows of these epochs in runs before format 5."""
    for epoch in epochs:
        generator = np.random.default_rng((SEED, 0x45706F, 0, epoch))
        rows = pack(EXAMPLES, generator.permutation(len(EXAMPLES)).tolist(), SHAPE)
        yield from (rows[place] for place in generator.permutation(len(rows)))


@pytest.mark.parametrize("repack", [False, True])
def test_each_epoch_has_every_example_once(repack):
    feed = feed_of(Source(EXAMPLES, SHAPE, repack=repack))
    rows = rows_from(feed, range(40))
    numbers = [number for row in rows for number in row]
    for epoch in range(3):
        part = numbers[epoch * len(EXAMPLES) : (epoch + 1) * len(EXAMPLES)]
        assert sorted(part) == list(range(len(EXAMPLES)))
    assert numbers[: len(EXAMPLES)] != numbers[len(EXAMPLES) : 2 * len(EXAMPLES)]
    assert all(sum(LENGTHS[number] for number in row) <= LENGTH for row in rows)


def test_examples_of_equal_length_change_rows():
    feed = feed_of(Source(EXAMPLES, SHAPE))
    per_epoch = round(feed.epoch_steps() * BATCH)
    rows = rows_from(feed, range(-(-3 * per_epoch // BATCH)))
    epochs = [{frozenset(row) for row in rows[e * per_epoch :][:per_epoch]} for e in range(3)]
    assert len(epochs[1] & epochs[2]) < per_epoch / 2


def test_rows_that_are_packed_again_are_those_of_older_runs():
    feed = feed_of(Source(EXAMPLES, SHAPE, repack=True))
    rows, expected = rows_from(feed, range(30)), list(repacked(range(5)))
    assert rows == expected[: len(rows)]
    first = feed_of(Source(EXAMPLES, SHAPE))
    steps = math.floor(first.epoch_steps())
    assert rows_from(first, range(steps)) == expected[: steps * BATCH], "the first epoch is theirs"


@pytest.mark.parametrize("repack", [False, True])
def test_a_batch_is_a_function_of_the_step(repack):
    sources = [Source(EXAMPLES, SHAPE, 2.0, repack), Source(EXAMPLES[:30], SHAPE, 1.0, repack)]
    forward, backward = feed_of(*sources), feed_of(*sources)
    steps = range(60)
    forward_rows = {step: held(forward.read(step, range(BATCH))) for step in steps}
    backward_rows = {step: held(backward.read(step, range(BATCH))) for step in reversed(steps)}
    assert forward_rows == backward_rows
    assert [forward.task(step) for step in steps] == [backward.task(step) for step in steps]
    rows = held(forward.read(7, [1, 3]))
    assert rows == [forward_rows[7][1], forward_rows[7][3]]


class Counted(list):
    """Examples that count how often they are read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("step", [0, 10**6])
def test_a_late_step_reads_only_its_own_examples(step):
    examples = Counted(EXAMPLES)
    feed = feed_of(Source(examples, SHAPE, 3.0), Source(examples, SHAPE))
    before = examples.reads
    rows = held(feed.read(step, range(BATCH)))
    assert examples.reads - before == sum(map(len, rows)) > 0
    assert before <= 2 * 3 * len(EXAMPLES), "packed once per task"


def test_tasks_are_drawn_by_weight():
    feeds = [feed_of(Source(EXAMPLES, SHAPE, 3.0), Source(EXAMPLES, SHAPE)) for _ in range(2)]
    steps = [*range(2000), *range(BLOCK - 5, BLOCK + 5)]
    tasks = [feeds[0].task(step) for step in steps]
    assert np.mean(tasks[:2000]) == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / 2000))
    assert [feeds[1].task(step) for step in reversed(steps)] == tasks[::-1]


def test_the_task_of_a_step_is_that_of_older_runs():
    feed = feed_of(*[Source(EXAMPLES, SHAPE, weight) for weight in (3.0, 1.0, 2.0)])
    drawn = np.random.default_rng((SEED, 0x537465))
    shares = np.cumsum([3.0, 1.0, 2.0]) / 6
    expected = [int(np.searchsorted(shares, drawn.random(), side="right")) for _ in range(20_000)]
    assert [feed.task(step) for step in range(20_000)] == expected
