"""A process that no longer answers is noticed; one that was suspended, or has finished, is not."""

import pytest

from llmjax.parallel.distributed.heartbeat import Heartbeat


class Connection:
    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)


class Pulse:
    """The heartbeat of process 0 of three, which checks once a second; others answer, or not."""

    def __init__(self):
        self.now, self.ended = 1000.0, []
        self.connections = {1: Connection(), 2: Connection()}
        self.heartbeat = Heartbeat(self.connections, self.end, lambda: self.now)
        self.heartbeat.seconds = 60

    def end(self, process, seconds):
        self.ended.append((process, seconds))

    def wait(self, seconds, *answering):
        for _ in range(seconds):
            self.now += 1
            for process in answering:
                self.heartbeat.hear(process, 8, False)
            self.heartbeat.check()
            if self.ended:
                return


@pytest.fixture
def pulse():
    return Pulse()


def test_a_process_that_stops_answering_ends_the_run(pulse):
    pulse.wait(100, 1, 2)
    pulse.wait(60, 1)
    assert pulse.ended == []
    pulse.wait(1, 1)
    assert pulse.ended == [(2, 61.0)]
    assert pulse.heartbeat.positions() == {1: 8, 2: 8}
    assert pulse.heartbeat.silent(50) == (2, 61.0)
    assert pulse.heartbeat.silent(61) is None


def test_one_that_never_said_anything_does_too(pulse):
    """It was stopped right after the roll call, while JAX started."""
    pulse.wait(61, 2)
    assert pulse.ended == [(1, 61.0)]
    assert pulse.heartbeat.positions() == {1: 0, 2: 8}


def test_the_others_hear_how_far_this_process_is(pulse):
    pulse.heartbeat.position, pulse.heartbeat.is_busy = 7, False
    pulse.heartbeat.check()
    sent = [connection.sent for connection in pulse.connections.values()]
    assert sent == [[{"at": 7, "busy": False}]] * 2


def test_a_process_that_compiles_is_known_to_all_through_process_0(pulse):
    def told():
        pulse.heartbeat.check()
        return [connection.sent[-1]["busy"] for connection in pulse.connections.values()]

    pulse.heartbeat.is_busy = False
    pulse.heartbeat.hear(2, 0, True)
    assert pulse.heartbeat.others_are_busy()
    assert told() == [True, False], "process 2 does not wait for itself"
    pulse.heartbeat.hear(2, 1, False)
    assert not pulse.heartbeat.others_are_busy()
    pulse.heartbeat.is_busy = True
    assert told() == [True, True]


def test_a_process_that_has_finished_may_be_silent(pulse):
    pulse.heartbeat.forget(2)
    pulse.wait(500, 1)
    assert pulse.ended == []


def test_after_a_suspension_the_others_have_time_to_answer(pulse):
    """As by Ctrl-Z, or with its whole machine."""
    pulse.now += 900
    pulse.heartbeat.check()
    pulse.wait(59)
    assert pulse.ended == []
    pulse.wait(2)
    assert pulse.ended[0][1] > 900


def test_zero_seconds_watch_nothing(pulse):
    pulse.heartbeat.seconds = 0
    pulse.wait(5000)
    assert pulse.ended == []
    assert pulse.heartbeat.interval == 5
