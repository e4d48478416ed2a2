"""Every second of a run is counted once, over all its starts."""

import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmjax.reporting.facts import goodput_facts
from llmjax.run.telemetry.goodput import ACTIVITIES, Goodput, read_goodput


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def seconds(file):
    return {name: value for name, value in read_goodput(file)["seconds"].items() if value}


def test_a_run_by_what_it_did(tmp_path):
    clock, file, waited = Clock(), tmp_path / "goodput.json", 0.0
    with Goodput(file, clock.now, clock) as goodput:
        clock.now += 5
        goodput.begin(0, lambda: waited)
        with goodput.spent("compile"):
            clock.now += 7
        clock.now += 20
        waited += 3
        with goodput.spent("evaluation"):
            clock.now += 4
        assert goodput.share == 17 / 36
        goodput.end()
        clock.now += 1
    expected = {"start": 5, "compile": 7, "steps": 17, "data": 3, "evaluation": 4, "saving": 1}
    assert seconds(file) == expected
    assert read_goodput(file)["starts"] == 1


def test_a_restart_loses_the_steps_since_the_checkpoint(tmp_path):
    clock, file = Clock(), tmp_path / "goodput.json"
    goodput = Goodput(file, clock.now, clock)
    goodput.begin(0, lambda: 0.0)
    clock.now += 10
    goodput.saved(4)
    clock.now += 6
    goodput.write()
    clock.now += 100  # killed, and started again later
    started = clock.now
    clock.now += 2
    with Goodput(file, started, clock) as goodput:
        goodput.begin(4, lambda: 0.0)
        clock.now += 8
    assert seconds(file) == {"start": 2, "steps": 18, "lost": 6, "down": 100}
    assert read_goodput(file)["starts"] == 2


def test_the_end_of_the_program_counts_unless_another_start_has_begun(tmp_path):
    clock, file = Clock(), tmp_path / "goodput.json"
    with Goodput(file, clock.now, clock) as goodput:
        goodput.begin(0, lambda: 0.0)
        clock.now += 10
        goodput.end()
    clock.now += 2
    goodput.left()
    assert seconds(file) == {"start": 2, "steps": 10}
    with Goodput(file, clock.now, clock) as again:
        again.begin(0, lambda: 0.0)
        clock.now += 3
    clock.now += 5
    goodput.left()
    assert seconds(file) == {"start": 2, "lost": 10, "steps": 3}


def test_the_process_began_before_python_was_loaded(tmp_path):
    code = "from llmjax.run.telemetry.program import Program; print(Program().began)"
    before = time.time()
    began = float(subprocess.check_output([sys.executable, "-c", code]))
    assert before - 0.1 <= began <= before + 0.5 * (time.time() - before)


def test_a_roll_back_loses_the_steps_since_the_checkpoint(tmp_path):
    clock, file = Clock(), tmp_path / "goodput.json"
    with Goodput(file, clock.now, clock) as goodput:
        goodput.begin(0, lambda: 0.0)
        for step, passed in ((4, 10), (8, 6)):
            clock.now += passed
            goodput.saved(step)
        clock.now += 5
        goodput.roll_back(4)
        clock.now += 3
    assert seconds(file) == {"steps": 13, "lost": 11}
    assert read_goodput(file)["saved"] == {"4": 10}


def test_the_report_lists_it_most_first():
    stored = {"seconds": {"steps": 90.0, "compile": 0.0, "lost": 110.0}, "starts": 2}
    rows = [(fact.label, fact.value, fact.note.split(":")[0]) for fact in goodput_facts(stored)]
    assert rows == [
        ("Wall time", "3 min 20 s", "since the first of 2 starts"),
        ("Lost", "55.0%", "1 min 50 s"),
        ("Steps", "45.0%", "1 min 30 s"),
    ]
    assert [fact.value for fact in goodput_facts(None)] == ["not recorded"]


def test_it_is_not_written_at_each_step(tmp_path):
    clock, file = Clock(), tmp_path / "goodput.json"
    goodput = Goodput(file, clock.now, clock)
    goodput.begin(0, lambda: 0.0)
    clock.now += 9
    goodput.keep()
    assert seconds(file) == {}
    clock.now += 1
    goodput.keep()
    assert seconds(file) == {"steps": 10}


def test_a_start_that_trains_nothing_is_not_recorded(tmp_path):
    with Goodput(tmp_path / "goodput.json", 0.0):
        pass
    assert not list(tmp_path.iterdir())
    with Goodput(None, 0.0) as goodput:
        goodput.begin(0, lambda: 0.0)
    assert not list(tmp_path.iterdir())


def test_a_first_start_that_is_killed_before_it_trains_counts_as_down(tmp_path):
    clock, file = Clock(), tmp_path / "goodput.json"
    Goodput(file, clock.now, clock)
    clock.now += 30  # killed while it prepares data, and started again
    started = clock.now
    clock.now += 2
    with Goodput(file, started, clock) as goodput:
        goodput.begin(0, lambda: 0.0)
        clock.now += 5
    assert seconds(file) == {"start": 2, "steps": 5, "down": 30}
    assert read_goodput(file)["starts"] == 2


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["wait", *ACTIVITIES, "save", "write", "kill"]),
        st.floats(0, 1e4).map(lambda x: round(x, 3)),
    ),
    max_size=25,
)


@given(EVENTS)
def test_times_add_up_to_the_wall_time(tmp_path_factory, events):
    clock, file, waited = Clock(), tmp_path_factory.mktemp("g") / "goodput.json", 0.0
    first, step, saved = clock.now, 0, 0

    def start():
        goodput = Goodput(file, clock.now, clock)
        goodput.begin(saved, lambda: waited)
        return goodput

    goodput = start()
    for event, duration in events:
        clock.now += duration
        if event == "wait":
            waited += duration
        elif event == "save":
            step = saved = step + 1
            goodput.saved(saved)
        elif event == "write":
            goodput.write()
        elif event == "kill":
            clock.now += duration
            goodput = start()
        else:
            with goodput.spent(event):
                clock.now += duration
    goodput.write()
    total = read_goodput(file)["seconds"]
    assert sum(total.values()) == pytest.approx(clock.now - first)
    assert min(total.values()) >= 0


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": {"steps": -1}},
        {"seconds": {"other": 1}},
        {"seconds": [1]},
        {"saved": {"x": 1}},
        {"time": None},
        {"starts": 0},
    ],
)
def test_a_damaged_file_counts_as_missing(tmp_path, change):
    file = tmp_path / "goodput.json"
    with Goodput(file, 0.0) as goodput:
        goodput.begin(0, lambda: 0.0)
    assert read_goodput(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert read_goodput(file) is None
