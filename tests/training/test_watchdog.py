"""What hangs is named and ended; what only takes long is not."""

import jax
import pytest

from llmjax.errors import HUNG
from llmjax.training.stopping import StartStatus
from llmjax.training.watchdog import Watchdog


class Ended(Exception):
    pass


class Group:
    """A link to processes of known positions, silent for so many seconds."""

    def __init__(self, positions, silence):
        self._positions, self._silence = positions, silence
        self.heartbeat, self.position = self, 0
        self.is_busy = self.busy_others = False

    def others_are_busy(self):
        return self.busy_others

    def positions(self):
        return self._positions

    def silent(self, seconds):
        longest = max(self._silence.items(), key=lambda item: item[1])
        return longest if longest[1] > seconds else None

    def end(self, *call):
        raise Ended(*call)


class Clock:
    """Seconds; while they pass, the watchdog checks."""

    def __init__(self):
        self.now, self.dog = 1000.0, None

    def __call__(self):
        return self.now

    def wait(self, seconds):
        for _ in range(round(seconds)):
            self.now += 1
            self.dog.check()


def end(code):
    raise Ended(code)


@pytest.fixture
def made(capfd):
    """Makes a watchdog that limits a step to 60 s, with a clock that is set by hand."""

    def make(link=None, seconds=60):
        said, clock = [], Clock()
        status = StartStatus(step=7, saved=5)
        dog = Watchdog(seconds, status, link, said.append, end, clock)
        clock.dog = dog
        return dog, clock, said

    return make


def test_a_step_may_take_a_minute_or_twenty_times_the_usual(made):
    dog, clock, said = made()
    for seconds in (1, 1, 1, 30):
        clock.wait(seconds)
        dog.progress()
    clock.wait(60)
    with pytest.raises(Ended) as caught:
        clock.wait(1)
    assert caught.value.args == (HUNG,)
    expected = (
        "llmjax: error: hangs at step 7: no step has ended for 61 s, where one takes 1 s; start "
        "the same command again to resume from step 5"
    )
    assert said == [expected]
    dog, clock, _ = made()
    for _ in range(3):
        clock.wait(50)
        dog.progress()
    clock.wait(1000)
    with pytest.raises(Ended):
        clock.wait(1)


def test_its_threads_are_shown(made, capfd):
    _, clock, _ = made()
    with pytest.raises(Ended):
        clock.wait(61)
    assert "test_its_threads_are_shown" in capfd.readouterr().err


def test_compilation_may_take_any_time(made):
    group = Group({1: 8}, {1: 1.0})
    dog, clock, _ = made(group)
    with dog.off():
        assert group.is_busy, "the others wait patiently"
        clock.wait(10_000)
    assert not group.is_busy
    clock.wait(60)
    group.busy_others = True
    clock.wait(10_000)
    group.busy_others = False
    clock.wait(60)
    with pytest.raises(Ended):
        clock.wait(1)


def test_a_process_that_was_suspended_starts_to_count_again(made):
    """As by Ctrl-Z, or with its whole machine."""
    _, clock, _ = made()
    clock.now += 900
    clock.wait(61)
    with pytest.raises(Ended):
        clock.wait(1)


@pytest.mark.parametrize(
    ("positions", "silence", "named"),
    [
        ({1: 8, 2: 7, 3: 8}, {1: 1.0}, 2),
        ({1: 8, 2: 8, 3: 8}, {1: 1.0, 3: 40.0}, 3),
        ({1: 9, 2: 9, 3: 9}, {1: 1.0}, 0),
    ],
    ids=["behind", "silent", "this one is behind"],
)
def test_the_process_that_the_others_wait_for_is_named(made, positions, silence, named):
    link = Group(positions, silence)
    dog, clock, _ = made(link)
    dog.start_step(8)
    with pytest.raises(Ended) as caught:
        clock.wait(61)
    process, code, reason = caught.value.args
    assert (process, code) == (named, HUNG)
    assert reason.startswith("hangs at step 7: no step has ended for 61 s")
    assert "no process is behind" not in reason
    assert link.position == 8, "the others hear how far this one is"


def test_where_none_is_behind_that_is_said(made):
    dog, clock, _ = made(Group({1: 8, 2: 8}, {1: 1.0}))
    dog.start_step(8)
    with pytest.raises(Ended) as caught:
        clock.wait(61)
    assert caught.value.args[0] == jax.process_index()
    assert caught.value.args[2].endswith("(no process is behind the others)")


def test_zero_seconds_watch_nothing(made):
    dog, _, _ = made(seconds=0)
    with dog:
        assert not dog._thread.is_alive()
