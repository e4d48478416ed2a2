"""A process that takes longer than the others for its part of a step is named, once."""

import json

import pytest

from llmjax.reporting.facts import straggler_facts
from llmjax.reporting.records import read_history
from llmjax.training.stragglers import Stragglers, straggler


class Group:
    """A link to processes on hosts h1, h2, ... that take so many seconds."""

    def __init__(self, seconds):
        self.times = seconds

    def seconds(self):
        return dict(self.times)

    def host(self, process):
        return f"h{process}"


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def made():
    """(stragglers of process 0, its lines, a function that takes steps)."""

    def make(link):
        clock, said = Clock(), []
        watched = Stragglers(link, said.append, clock)

        def take(steps, own, waited):
            for _ in range(steps):
                clock.now += own
                with watched.waiting():
                    clock.now += waited
                watched.end_step()

        return watched, said, take, clock

    return make


def test_it_is_named_once_and_again_when_it_has_recovered(made):
    link = Group({1: 0.05, 2: 0.5, 3: 0.1})
    watched, said, take, _ = made(link)
    take(10, 0.1, 0.9)
    record = watched.report(10)
    assert (record["straggler"], record["straggler_host"]) == (2, "h2")
    assert (record["straggler_seconds"], record["typical_seconds"]) == (0.5, pytest.approx(0.1))
    watched.report(20)
    link.times[2] = 0.1
    assert watched.report(30)["straggler"] is None
    watched.report(40)
    assert said == [
        "llmjax: step 10: process 2 (host h2) keeps the others waiting: its data and host take "
        "0.5 s of a step of 1 s, 0.4 s more than the median process",
        "llmjax: step 30: process 2 no longer keeps the others waiting",
    ]


def test_waiting_for_the_devices_and_pauses_are_not_its_own_time(made):
    link = Group({1: 0.1})
    watched, _, take, clock = made(link)
    take(5, 0.1, 0.9)
    clock.now += 1000  # an evaluation
    watched.restart()
    take(1, 0.1, 0.9)
    assert watched.report(6)["typical_seconds"] == pytest.approx(0.1)
    assert watched.report(6)["straggler"] is None


def test_the_slow_process_may_be_the_first(made):
    watched, said, take, _ = made(Group({1: 0.1}))
    take(5, 0.8, 0.0)
    assert watched.report(5)["straggler"] == 0
    assert "process 0 (host h0)" in said[0]


def test_the_rule():
    assert straggler({0: 0.1, 1: 0.31}, 1.0) == 1
    assert straggler({0: 0.1, 1: 0.29}, 1.0) is None
    assert straggler({0: 0.1}, 0.1) is None


def test_nothing_is_compared_without_others_or_before_there_is_a_median(made):
    watched, _, take, _ = made(None)
    take(10, 1, 1)
    assert watched.report(10) == {}
    watched, _, take, _ = made(Group({1: 9.0}))
    take(4, 1, 1)
    assert watched.report(4) == {}


def history(folder, *lines):
    """What a run with these training records reads back."""
    records = ({"step": step, "kind": "train", **line} for step, line in enumerate(lines))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    return read_history(folder)


def test_the_report_sums_up_who_was_slow(tmp_path):
    slow = {"straggler": 3, "straggler_host": "h3", "straggler_seconds": 0.5}
    none = {"straggler": None, "typical_seconds": 0.1}
    (fact,) = straggler_facts(history(tmp_path, slow | {"typical_seconds": 0.1}, none, none))
    assert fact.label == "Process 3, host h3"
    assert fact.value == "slow in 1 of 3 logged steps"
    assert fact.note == "its data and host took 0.5 s of a step, the median process 0.1 s"
    assert straggler_facts(history(tmp_path, none))[0].value == "none"
    assert straggler_facts(history(tmp_path, {})) == []
