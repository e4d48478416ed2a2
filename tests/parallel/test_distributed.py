"""How the processes of a run connect, and how they detect that another one ended."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version

import pytest

import tiny
from llmjax.errors import HUNG, NoAnswer, UserError, exit_code
from llmjax.parallel.distributed import HEARTBEAT, later_than, roll_call
from llmjax.parallel.distributed import link as link_module
from llmjax.parallel.distributed.forward import forward
from llmjax.parallel.distributed.link import Link, Work
from llmjax.parallel.distributed.messages import Connection, Lost
from llmjax.parallel.distributed.roll_call import Member, ProcessGroup, Rendezvous, call_roll


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def outcomes(*processes: Rendezvous) -> list:
    """Each process's group, or its error message; threads stand for processes."""

    def outcome(rendezvous: Rendezvous):
        try:
            return call_roll(rendezvous)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(outcome, processes))


def address() -> str:
    return f"127.0.0.1:{free_port()}"


def connect(where: str) -> socket.socket:
    """Connects to process 0, which may not listen yet."""
    host, port = where.split(":")
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection((host, int(port)))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_all_processes_know_the_others_and_the_port_is_free_again():
    where = address()
    groups = outcomes(*[Rendezvous(where, 3, process) for process in (2, 0, 1)])
    for group in groups:
        assert [member.process for member in group.members] == [0, 1, 2]
        assert {member.pid for member in group.members} == {os.getpid()}
    assert [set(group.connections) for group in groups] == [{0}, {1, 2}, {0}]
    with socket.create_server(("", int(where.rpartition(":")[2]))):
        pass


def test_a_process_alone_waits_for_nobody():
    (group,) = outcomes(Rendezvous(address(), 1, 0))
    assert (len(group.members), group.connections) == (1, {})


def test_a_probe_of_the_port_is_no_process():
    where = address()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call_roll, Rendezvous(where, 2, 0))
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"[" * 100 + b"\n", b'{"process": 1}\n'):
            probe = connect(where)
            probe.sendall(data)
            probe.close()
        assert len(call_roll(Rendezvous(where, 2, 1)).members) == 2
        assert len(first.result().members) == 2


@pytest.mark.parametrize(
    ("processes", "message"),
    [
        ([(2, 0), (3, 1)], "process 1 .*says that there are 3 processes, process 0 says 2"),
        ([(3, 0), (3, 1), (3, 1)], "process 1 .*has the number of another one on host .*, pid"),
    ],
)
def test_processes_that_contradict_each_other_all_learn_why(processes, message, monkeypatch):
    monkeypatch.setenv(roll_call.SECONDS, "2")
    where = address()
    for outcome in outcomes(*[Rendezvous(where, *process) for process in processes]):
        assert isinstance(outcome, str)
        if "cannot be reached" not in outcome:  # it came when the others had gone
            assert re.search(message, outcome), outcome


def test_other_versions_are_named():
    where = address()
    versions = {name: version(name) for name in ("llmjax", "jax", "jaxlib")} | {"jax": "0.0.1"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call_roll, Rendezvous(where, 2, 0))
        other = Connection(connect(where))
        other.send(Member(1, 2, "host", 1, versions)._asdict())
        refusal = other.receive(30)
        with pytest.raises(UserError, match=r"process 1 .*has jax 0\.0\.1, process 0 has"):
            first.result()
    assert refusal["refused"].startswith("has jax 0.0.1, process 0 has")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("127.0.0.1:{port}", "cannot be reached there within 1 s: connection refused; start"),
        ("nowhere.invalid:{port}", "the name nowhere.invalid is unknown"),
    ],
)
def test_a_coordinator_that_cannot_be_reached_is_named(where, message, monkeypatch):
    monkeypatch.setenv(roll_call.SECONDS, "1")
    rendezvous = Rendezvous(where.format(port=free_port()), 2, 1)
    with pytest.raises(UserError) as caught:
        call_roll(rendezvous)
    prefix = f"JAX_COORDINATOR_ADDRESS={rendezvous.coordinator}: process 0"
    assert str(caught.value).startswith(prefix)
    assert message in str(caught.value)


def test_a_process_that_does_not_come_is_named_by_all_and_another_start_may_succeed(monkeypatch):
    monkeypatch.setenv(roll_call.SECONDS, "1")
    where = address()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(call_roll, Rendezvous(where, 3, process)) for process in (0, 1)]
    for error in map(Future.exception, waiting):
        assert isinstance(error, NoAnswer)
        assert "process 2 of 3 did not come within 1 s" in str(error)
        assert exit_code(error) == HUNG


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be opened here: address already"):
            call_roll(Rendezvous(f"127.0.0.1:{port}", 2, 0))


@pytest.mark.parametrize("text", ["soon", "0", "-1"])
def test_a_bad_timeout_is_refused(text, monkeypatch):
    monkeypatch.setenv(roll_call.SECONDS, text)
    with pytest.raises(UserError, match="must be a positive number"):
        roll_call.seconds(5)


def test_a_connection_passes_messages_until_it_ends():
    near, far = connection_pair()
    for number in range(3):
        far.send({"number": number})
    far.close()
    assert [near.receive()["number"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Lost):
        near.receive()


def socket_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return server.accept()[0], client


def connection_pair() -> tuple[Connection, Connection]:
    near, far = socket_pair()
    return Connection(near), Connection(far)


def test_what_is_forwarded_stays_open_when_the_coordinator_goes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = forward(Rendezvous(f"127.0.0.1:{server.getsockname()[1]}", 2, 1)).split(":")
        near = socket.create_connection((host, int(port)))
        far, _ = server.accept()
        near.sendall(b"there")
        assert far.recv(10) == b"there"
        far.sendall(b"back")
        assert near.recv(10) == b"back"
        far.close()
        near.settimeout(0.2)
        with pytest.raises(TimeoutError):
            near.recv(10)
        near.close()


# A process of a run without JAX: it joins, says so, and follows commands on stdin.
MEMBER = """
import sys, time
from llmjax.parallel.distributed.link import Link, Work
from llmjax.parallel.distributed.roll_call import Rendezvous, call_roll
from llmjax.errors import UserError

process, count, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
link = Link(process, call_roll(Rendezvous(address, count, process)))
work = Work(
    lambda: "at step 7",
    lambda: "start the same command again to resume from step 4",
    lambda text: print(text, file=sys.stderr, flush=True),
    lambda: print("cleaned", flush=True),
)
with link.during(work):
    print("joined", flush=True)
    for line in sys.stdin:
        if line == "fail\\n":
            raise UserError("the disk", "is full", "free some")
        if line == "finish\\n":
            break
"""


@pytest.fixture
def members():
    """Starts processes and waits until they have joined; kills them afterwards."""
    started: list[subprocess.Popen] = []

    def start(count: int) -> list[subprocess.Popen]:
        where = address()
        started.extend(
            subprocess.Popen(
                [sys.executable, "-c", MEMBER, str(process), str(count), where],
                env=os.environ | {"PYTHONPATH": str(tiny.HERE.parent)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in range(count)
        )
        assert [process.stdout.readline() for process in started] == ["joined\n"] * count
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.once
@pytest.mark.parametrize("dead", [0, 2])
def test_a_process_that_dies_is_named_by_all_others(members, dead):
    started = members(3)
    os.kill(started[dead].pid, signal.SIGKILL)
    name = f"llmjax: error: process {dead} (host {socket.gethostname()}, pid {started[dead].pid})"
    for process in {0, 1, 2} - {dead}:
        assert started[process].wait(timeout=60) == 1
        assert started[process].stdout.read() == "cleaned\n"
        assert started[process].stderr.read().splitlines() == [
            f"{name} died at step 7; start the same command again to resume from step 4"
        ]


def test_a_process_that_fails_says_why_and_the_others_end_alike(members):
    started = members(3)
    started[1].stdin.write("fail\n")
    started[1].stdin.flush()
    for process in (0, 2):
        assert started[process].wait(timeout=60) == 2
        last = started[process].stderr.read().splitlines()[-1]
        assert last.endswith("left: the disk: is full; free some")
    assert started[1].wait(timeout=60) == 2


def test_news_that_comes_while_a_process_leaves_changes_nothing(monkeypatch):
    """Both others fail while this process reports its failure: it reports to all, and ends."""
    at_exit: list[tuple] = []
    monkeypatch.setattr(link_module.atexit, "register", lambda *call: at_exit.append(call))
    monkeypatch.setattr(link_module, "LATE", 0.0)
    pairs = [connection_pair(), connection_pair()]
    members = [Member(process, 3, "host", 1, {}) for process in range(3)]
    link = Link(0, ProcessGroup(members, {1: pairs[0][0], 2: pairs[1][0]}))
    send, sent = pairs[0][0].send, threading.Event()

    def crossing(message):
        send(message)
        for process, (_, far) in enumerate(pairs, start=1):
            far.send({"gone": process, "code": 2, "why": "a reason of its own"})
        link._watcher.join(timeout=30)
        sent.set()

    monkeypatch.setattr(pairs[0][0], "send", crossing)
    nothing = Work(lambda: "", lambda: "", lambda text: None, lambda: None)
    with pytest.raises(UserError, match="is full"), link.during(nothing):
        raise UserError("the disk", "is full")
    assert sent.is_set()
    assert not link._watcher.is_alive()
    for _, far in pairs:
        assert far.receive(1) == {"gone": 0, "code": 2, "why": "the disk: is full"}
    assert (link_module._end, 2) in at_exit


class Once:
    """In place of the lock of a link that leaves, where `_end` returns: whoever comes first leaves,
    and nobody waits. The link's threads, which outlive the test, find it taken."""

    def __init__(self):
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True) -> bool:
        return self._lock.acquire(blocking=False) or blocking


@pytest.mark.parametrize(
    ("silent", "gone", "code"),
    [(None, 0, HUNG), ((1, 31.0), 1, HUNG)],
    ids=["all answer", "process 1 is silent"],
)
def test_an_exchange_that_timed_out_is_blamed_on_a_silent_process(silent, gone, code, monkeypatch):
    said, ended = [], []
    monkeypatch.setattr(link_module.atexit, "register", lambda *call: ended.append(call[1:]))
    monkeypatch.setattr(link_module, "_end", lambda code: ended.append((code,)))
    monkeypatch.setattr(link_module, "show_threads", lambda: None)
    monkeypatch.setattr(link_module, "LATE", 0.0)
    pairs = [connection_pair(), connection_pair()]
    members = [Member(process, 3, "host", 1, {}) for process in range(3)]
    link = Link(0, ProcessGroup(members, {1: pairs[0][0], 2: pairs[1][0]}))
    monkeypatch.setattr(link.heartbeat, "silent", lambda seconds: silent)
    link._leaving = Once()
    nothing = Work(lambda: "at step 7", lambda: "", said.append, lambda: None)
    with pytest.raises(RuntimeError), link.during(nothing):
        raise RuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")
    message = pairs[1][1].receive(1)
    assert (message["gone"], message["code"]) == (gone, code)
    assert (code,) in ended
    assert bool(said) == (silent is not None)


def test_processes_that_finish_one_after_the_other_are_not_missed(members):
    started = members(3)
    for process in (1, 0, 2):
        out, err = started[process].communicate("finish\n", timeout=60)
        assert (started[process].returncode, out, err) == (0, "", "")


def test_jax_aborts_no_process_before_the_link_has_named_the_one_that_hangs():
    for watchdog in (20, 600, 3600):
        assert later_than(watchdog) > watchdog + 20
    assert later_than(0) == HEARTBEAT


def test_messages_are_one_line_each():
    receiving, raw = socket_pair()
    near, far = Connection(receiving), Connection(raw)
    far.send({"why": "two\nlines"})
    assert near.receive() == {"why": "two\nlines"}
    raw.sendall(json.dumps([1]).encode() + b"\n")
    with pytest.raises(UserError, match="is not an object"):
        near.receive()
    raw.sendall(b"x" * (1 << 17))
    with pytest.raises(UserError, match="something else"):
        near.receive()
