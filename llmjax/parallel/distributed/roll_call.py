"""The roll call: before JAX starts, every process reports to process 0, which compares them.

Process 0 listens on the port of JAX's coordinator and closes it once all have reported. The
connections stay open, as links that break when a process dies.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, NamedTuple

from llmjax.errors import NoAnswer, UserError
from llmjax.parallel.distributed.messages import Connection, Lost, say

UNREACHABLE = 25.0
"""Seconds to connect to process 0."""
MISSING = 300.0
"""Seconds for all processes to report."""
REPORT = 10.0
"""Seconds for a connection to report, and between messages about missing processes."""
SECONDS = "LLMJAX_JOIN_SECONDS"
ADDRESS = "JAX_COORDINATOR_ADDRESS"
SAME = ("llmjax", "jax", "jaxlib")
"""Packages whose versions must be equal in all processes."""


class Rendezvous(NamedTuple):
    """Which process this is, of how many, and the coordinator's address."""

    coordinator: str
    processes: int
    process: int

    @property
    def host(self) -> str:
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.coordinator.rpartition(":")[2])

    def __str__(self) -> str:
        return f"{ADDRESS}={self.coordinator}"


class Member(NamedTuple):
    """A process of the run."""

    process: int
    processes: int
    host: str
    pid: int
    versions: dict[str, str]

    def __str__(self) -> str:
        return f"process {self.process} (host {self.host}, pid {self.pid})"


class ProcessGroup(NamedTuple):
    """All processes, and this one's connections: process 0 has one to each, others one to it."""

    members: list[Member]
    connections: dict[int, Connection]


def call_roll(
    rendezvous: Rendezvous, reach: float = UNREACHABLE, missing: float = MISSING
) -> ProcessGroup:
    """Waits until all processes have reported and agree.

    Args:
      rendezvous: the processes and their meeting place.
      reach: seconds to connect to process 0, unless LLMJAX_JOIN_SECONDS is set.
      missing: seconds for all processes to report, unless it is set.

    Raises:
      UserError: some differ; every process raises it with the reason.
      NoAnswer: some are missing.
    """
    process, processes = rendezvous.process, rendezvous.processes
    versions = {name: metadata.version(name) for name in SAME}
    this = Member(process, processes, socket.gethostname(), os.getpid(), versions)
    reach, missing = seconds(reach), seconds(missing)
    if rendezvous.process == 0:
        return _gather(rendezvous, this, missing)
    return _report(rendezvous, this, reach, missing)


def seconds(default: float) -> float:
    """Returns the timeout set in the environment, or the default."""
    text = os.environ.get(SECONDS, "")
    if not text:
        return default
    if not text.isdecimal() or not int(text):
        raise UserError(f"{SECONDS}={text}", "must be a positive number of seconds")
    return float(text)


def _report(rendezvous: Rendezvous, this: Member, reach: float, missing: float) -> ProcessGroup:
    """Reports to process 0, and waits for its answer that all have reported."""
    connection = Connection(_connect(rendezvous, reach))
    connection.send(this._asdict())
    try:
        answer = connection.receive(missing + REPORT)
    except (Lost, UserError) as error:
        reason = f"process 0 hung up before all processes were there ({error})"
        raise NoAnswer(rendezvous, reason, "see what process 0 says") from error
    if "refused" in answer:
        kind = NoAnswer if answer.get("missing") else UserError
        raise kind(answer.get("thing"), str(answer["refused"]), str(answer.get("fix", "")))
    members = [_member(report) for report in answer["members"]]
    return ProcessGroup(members, {0: connection})


def _connect(rendezvous: Rendezvous, limit: float) -> socket.socket:
    """Connects to process 0, retrying, since it may start later than this process."""
    reason = "no answer"
    end = time.monotonic() + limit
    while (remaining := end - time.monotonic()) > 0:
        try:
            return socket.create_connection((rendezvous.host, rendezvous.port), timeout=remaining)
        except socket.gaierror as error:
            reason = f"the name {rendezvous.host} is unknown ({error.strerror})"
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
        time.sleep(min(0.2, max(0.0, remaining)))
    raise NoAnswer(
        rendezvous,
        f"process 0 cannot be reached there within {limit:.0f} s: {reason}",
        "start process 0 on that host, open the port between the hosts, or give the address of "
        f"process 0's host; where processes start far apart, set {SECONDS}",
    )


def _gather(rendezvous: Rendezvous, this: Member, missing: float) -> ProcessGroup:
    """Receives the reports of all other processes."""
    members, connections = {0: this}, dict[int, Connection]()
    if rendezvous.processes == 1:
        return ProcessGroup([this], connections)
    with _listening(rendezvous) as listener:
        try:
            for connection in _accept(listener, rendezvous, members, missing):
                member = _receive_report(connection)
                if member is None:
                    continue
                try:
                    _check(member, members.get(member.process), this)
                except UserError as error:
                    connection.send(_refusal(error))
                    raise
                members[member.process] = member
                connections[member.process] = connection
                if len(members) == rendezvous.processes:
                    break
        except UserError as error:
            for connection in connections.values():
                connection.send(_refusal(error))
            raise
    ordered = [members[process] for process in range(rendezvous.processes)]
    for connection in connections.values():
        connection.send({"members": [member._asdict() for member in ordered]})
    return ProcessGroup(ordered, connections)


def _refusal(error: UserError) -> dict[str, Any]:
    texts = {"thing": error.thing, "refused": error.reason, "fix": error.fix}
    return texts | {"missing": isinstance(error, NoAnswer)}


@contextlib.contextmanager
def _listening(rendezvous: Rendezvous) -> Iterator[socket.socket]:
    """Listens on the coordinator's port, on all addresses, as JAX does later."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", rendezvous.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        reason = f"port {rendezvous.port} cannot be opened here: {(error.strerror or '').lower()}"
        fix = "another process 0 or another program has it: choose another port"
        raise UserError(rendezvous, reason, fix) from error
    with listener:
        yield listener


def _accept(
    listener: socket.socket,
    rendezvous: Rendezvous,
    members: Mapping[int, Member],
    limit: float,
) -> Iterator[Connection]:
    """Yields incoming connections; reports now and then which processes are missing."""
    end, next_message = time.monotonic() + limit, time.monotonic() + REPORT
    listener.settimeout(0.5)
    while True:
        try:
            sock, _ = listener.accept()
        except TimeoutError:
            missing = sorted({*range(rendezvous.processes)} - set(members))
            who = ("process " if len(missing) == 1 else "processes ") + ", ".join(map(str, missing))
            if time.monotonic() > end:
                reason = f"{who} of {rendezvous.processes} did not come within {limit:.0f} s"
                fix = f"start {rendezvous.processes} processes with this address, or set {SECONDS}"
                raise NoAnswer(rendezvous, reason, fix) from None
            if time.monotonic() > next_message:
                next_message += REPORT
                total, address = rendezvous.processes, rendezvous.coordinator
                say(f"llmjax: waiting for {who} of {total} at {address}")
            continue
        yield Connection(sock)


def _receive_report(connection: Connection) -> Member | None:
    """Reads a process's report; None if it is not one, such as a probe of the port."""
    try:
        return _member(connection.receive(REPORT))
    except (Lost, UserError):
        connection.close()
        return None


def _member(message: Mapping[str, Any]) -> Member:
    try:
        versions = {str(name): str(value) for name, value in dict(message["versions"]).items()}
        numbers = int(message["process"]), int(message["processes"])
        return Member(*numbers, str(message["host"])[:200], int(message["pid"]), versions)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("a message", f"is not a report: {error}") from error


def _check(member: Member, known: Member | None, this: Member) -> None:
    """Raises UserError if a process contradicts those before it."""
    if member.processes != this.processes:
        reason = (
            f"says that there are {member.processes} processes, process 0 says {this.processes}"
        )
        raise UserError(member, reason, "set the same JAX_NUM_PROCESSES everywhere")
    if known is not None or not 0 < member.process < this.processes:
        reason = (
            f"has the number of another one on host {known.host}, pid {known.pid}"
            if known
            else f"is not one of 0 to {this.processes - 1}"
        )
        raise UserError(member, reason, "give each process its own JAX_PROCESS_ID")
    for name in SAME:
        version, expected = member.versions.get(name), this.versions[name]
        if version != expected:
            reason = f"has {name} {version}, process 0 has {expected}"
            raise UserError(member, reason, "install the same versions everywhere")
