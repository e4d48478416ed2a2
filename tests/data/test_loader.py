"""A batch is a function of seed and step: on any mesh, any number of hosts, after any resume."""

import threading
from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest

from llmjax.data.loader import CorpusFeed, Loader, batch_at, local_rows, read_rows
from llmjax.data.order import RowOrder, steps_per_epoch
from llmjax.errors import UserError
from llmjax.parallel.mesh import MeshConfig, make_mesh, named_sharding


def equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]), name)


def take(corpus, config, count, seed=5, mesh=None, start_step=0):
    with Loader(CorpusFeed(corpus, config, seed), mesh, start_step) as loader:
        return [next(loader) for _ in range(count)]


def test_every_token_is_a_target_once_an_epoch(small):
    corpus, config = small
    single = replace(config, batch_size=1)
    counts = Counter()
    for step in range(steps_per_epoch(corpus, single)):
        batch = batch_at(corpus, single, 5, step)
        counts.update(batch["targets"][batch["weights"] > 0].tolist())
    assert counts == Counter(corpus.train[0].tokens.tolist())


def test_the_loader_yields_what_batch_at_defines(small):
    for step, (number, batch) in enumerate(take(*small, 6)):
        assert number == step
        equal(batch, batch_at(*small, 5, step))


@pytest.mark.parametrize(
    "sizes", [{"data": 4}, {"fsdp": 4}, {"data": 2, "fsdp": 2, "sequence": 2}, {"sequence": 8}]
)
def test_any_mesh_holds_the_same_batch(small, sizes):
    corpus, config = small
    count = np.prod(list(sizes.values()))
    mesh = make_mesh(MeshConfig(**({"fsdp": 1} | sizes)), jax.devices()[:count])
    for step, batch in take(corpus, config, 3, mesh=mesh):
        equal(batch, batch_at(corpus, config, 5, step))
        expected = named_sharding(mesh, "batch", "length")
        assert all(values.sharding == expected for values in batch.values())


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_read_their_own_rows_of_the_same_batch(small, hosts):
    corpus, config = small
    order, step = RowOrder(corpus, config, 5), 7
    shares = np.split(np.arange(config.batch_size), hosts)
    parts = [read_rows(corpus, order, step, share.tolist()) for share in shares]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    equal(joined, batch_at(corpus, config, 5, step))


def test_only_the_rows_of_this_process_are_read():
    """Pretends that this process holds two of the mesh's eight devices."""
    mesh = make_mesh(MeshConfig(fsdp=4, sequence=2))
    sharding = named_sharding(mesh, "batch")
    assert local_rows(sharding, 8) == list(range(8))

    class Mine:
        def addressable_devices_indices_map(self, shape):
            every = sharding.devices_indices_map(shape)
            return {device: every[device] for device in mesh.devices.ravel()[2:4]}

    assert local_rows(Mine(), 8) == [2, 3]


def test_resuming_at_a_step_gives_the_same_batches(small):
    batches = take(*small, 9)
    resumed = take(*small, 4, start_step=5)
    assert [step for step, _ in resumed] == [5, 6, 7, 8]
    for (_, expected), (_, batch) in zip(batches[5:], resumed, strict=True):
        equal(expected, batch)


def test_seeds_and_steps_give_different_batches(small):
    batches = [batch_at(*small, seed, step)["targets"] for seed in (1, 2) for step in (0, 1)]
    assert len({batch.tobytes() for batch in batches}) == 4


def test_rows_of_a_mixture_come_from_their_sources(mixture):
    corpus, config = mixture
    batch = batch_at(corpus, config, 0, 3)
    order = RowOrder(corpus, config, 0)
    for index in range(config.batch_size):
        row = order[3 * config.batch_size + index]
        tokens = corpus.train[row.source].tokens
        places = (row.start + np.arange(config.length)) % len(tokens)
        real = batch["weights"][index] > 0
        np.testing.assert_array_equal(batch["targets"][index][real], tokens[places][real])


def test_what_happens_at_the_end_is_configured(small):
    corpus, config = small
    steps = steps_per_epoch(corpus, config)
    with Loader(CorpusFeed(corpus, replace(config, on_exhaustion="stop"), 0)) as loader:
        assert [step for step, _ in loader] == list(range(steps))
    strict = CorpusFeed(corpus, replace(config, on_exhaustion="error"), 0)
    with Loader(strict, start_step=steps - 1, stops=False) as loader:
        assert next(loader)[0] == steps - 1
        with pytest.raises(UserError, match=f"the corpus is exhausted after {steps} steps"):
            next(loader)
    stopping = CorpusFeed(corpus, replace(config, on_exhaustion="stop"), 0)
    with Loader(stopping, start_step=steps + 3) as loader:
        assert list(loader) == []
    assert take(corpus, config, 2, start_step=steps)[1][0] == steps + 1


def test_a_batch_that_does_not_divide_is_refused(small):
    corpus, config = small
    with pytest.raises(UserError, match="batch dimension of 4 does not divide over mesh"):
        Loader(CorpusFeed(corpus, config, 0), make_mesh(MeshConfig(fsdp=8)))
    with pytest.raises(UserError, match="length dimension of 15 does not divide over mesh"):
        Loader(CorpusFeed(corpus, replace(config, length=15), 0), make_mesh(MeshConfig(sequence=8)))


def test_errors_of_the_threads_reach_the_caller(small):
    class FailingFeed(CorpusFeed):
        def read(self, step, rows):
            if step == 3:
                raise OSError("the disk is gone")
            return super().read(step, rows)

    with Loader(FailingFeed(*small, 0)) as loader:
        assert [next(loader)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="the disk is gone"):
            next(loader)


def test_batches_are_made_ahead_and_not_without_bound(small):
    made, enough = [], threading.Event()

    class RecordingFeed(CorpusFeed):
        def read(self, step, rows):
            made.append(step)
            if len(made) == 4:
                enough.set()
            return super().read(step, rows)

    with Loader(RecordingFeed(*small, 0)) as loader:
        next(loader)
        assert enough.wait(10), "nothing is made ahead"
        threading.Event().wait(0.2)
        assert len(made) <= 12
        assert loader.wait_seconds > 0


def test_threads_end_with_the_loader(small):
    before = set(threading.enumerate())
    loader = Loader(CorpusFeed(*small, 0))
    next(loader)
    assert set(threading.enumerate()) - before
    loader.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
