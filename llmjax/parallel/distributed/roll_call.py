"""Who is there: before JAX starts, every process reports to process 0, which compares.

Process 0 listens where JAX's coordinator will, and hangs up the port again when all are there; the
connections stay, as a link by which each learns of the others' end.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

from llmjax.errors import UserError
from llmjax.parallel.distributed.messages import Connection, Lost, say

UNREACHABLE = 25.0
"""Seconds in which the coordinator must be reached, unless LLMJAX_JOIN_SECONDS says otherwise."""
MISSING = 300.0
"""Seconds in which all processes must have come, unless LLMJAX_JOIN_SECONDS says otherwise."""
REPORT = 10.0
"""Seconds in which a connection must report, and between words about who is missing."""
SECONDS = "LLMJAX_JOIN_SECONDS"
ADDRESS = "JAX_COORDINATOR_ADDRESS"
SAME = ("llmjax", "jax", "jaxlib")
"""Packages whose versions all processes share."""


class Place(NamedTuple):
    """Which process this is, and where they meet."""

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


class Present(NamedTuple):
    """All processes, and the connections of this one: process 0 has one to each, the others have
    one to process 0."""

    members: list[Member]
    connections: dict[int, Connection]


def call_roll(place: Place) -> Present:
    """Returns when all processes are there and suit each other.

    Raises:
      UserError: they do not find together, or differ; every process learns why.
    """
    versions = {name: version(name) for name in SAME}
    own = Member(place.process, place.processes, socket.gethostname(), os.getpid(), versions)
    return _gather(place, own) if place.process == 0 else _report(place, own)


def seconds(default: float) -> float:
    """How long to wait, by the environment."""
    given = os.environ.get(SECONDS, "")
    if not given:
        return default
    if not given.isdecimal() or not int(given):
        raise UserError(f"{SECONDS}={given}", "must be a positive number of seconds")
    return float(given)


def _report(place: Place, own: Member) -> Present:
    """Reports to process 0, and waits until it knows that all are there."""
    connection = Connection(_connect(place))
    connection.send(own._asdict())
    try:
        answer = connection.receive(seconds(MISSING) + REPORT)
    except (Lost, UserError) as error:
        reason = f"process 0 hung up before all processes were there ({error})"
        raise UserError(place, reason, "see what process 0 says") from error
    if "refused" in answer:
        raise UserError(answer.get("thing"), str(answer["refused"]), str(answer.get("fix", "")))
    members = [_member(one) for one in answer["members"]]
    return Present(members, {0: connection})


def _connect(place: Place) -> socket.socket:
    """A connection to the coordinator, tried again and again: it may start later than this one."""
    limit, reason = seconds(UNREACHABLE), "no answer"
    end = time.monotonic() + limit
    while (left := end - time.monotonic()) > 0:
        try:
            return socket.create_connection((place.host, place.port), timeout=left)
        except socket.gaierror as error:
            reason = f"the name {place.host} is unknown ({error.strerror})"
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
        time.sleep(min(0.2, max(0.0, left)))
    raise UserError(
        place,
        f"process 0 cannot be reached there within {limit:.0f} s: {reason}",
        "start process 0 on that host, open the port between the hosts, or give the address of "
        f"process 0's host; where processes start far apart, set {SECONDS}",
    )


def _gather(place: Place, own: Member) -> Present:
    """Hears the reports of all other processes."""
    members, connections = {0: own}, dict[int, Connection]()
    if place.processes == 1:
        return Present([own], connections)
    with _listening(place) as listener:
        try:
            for connection in _arriving(listener, place, members):
                member = _heard(connection)
                if member is None:
                    continue
                try:
                    _check(member, members.get(member.process), own)
                except UserError as error:
                    connection.send(_refusal(error))
                    raise
                members[member.process] = member
                connections[member.process] = connection
                if len(members) == place.processes:
                    break
        except UserError as error:
            for connection in connections.values():
                connection.send(_refusal(error))
            raise
    ordered = [members[process] for process in range(place.processes)]
    for connection in connections.values():
        connection.send({"members": [member._asdict() for member in ordered]})
    return Present(ordered, connections)


def _refusal(error: UserError) -> dict[str, str]:
    return {"thing": error.thing, "refused": error.reason, "fix": error.fix}


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[socket.socket]:
    """Listens at the coordinator's port, on all addresses as JAX does afterwards."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", place.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        reason = f"port {place.port} cannot be opened here: {(error.strerror or '').lower()}"
        fix = "another process 0 or another program has it: choose another port"
        raise UserError(place, reason, fix) from error
    with listener:
        yield listener


def _arriving(
    listener: socket.socket, place: Place, members: Mapping[int, Member]
) -> Iterator[Connection]:
    """Connections as they come in; says now and then who is missing."""
    limit = seconds(MISSING)
    end, word = time.monotonic() + limit, time.monotonic() + REPORT
    listener.settimeout(0.5)
    while True:
        try:
            sock, _ = listener.accept()
        except TimeoutError:
            missing = sorted({*range(place.processes)} - set(members))
            who = ("process " if len(missing) == 1 else "processes ") + ", ".join(map(str, missing))
            if time.monotonic() > end:
                reason = f"{who} of {place.processes} did not come within {limit:.0f} s"
                fix = f"start {place.processes} processes with this address, or set {SECONDS}"
                raise UserError(place, reason, fix) from None
            if time.monotonic() > word:
                word += REPORT
                say(f"llmjax: waiting for {who} of {place.processes} at {place.coordinator}")
            continue
        yield Connection(sock)


def _heard(connection: Connection) -> Member | None:
    """Who reports on a connection; None where it is none of ours, such as a probe of the port."""
    try:
        return _member(connection.receive(REPORT))
    except (Lost, UserError):
        connection.close()
        return None


def _member(message: Mapping[str, Any]) -> Member:
    try:
        versions = {str(name): str(one) for name, one in dict(message["versions"]).items()}
        numbers = int(message["process"]), int(message["processes"])
        return Member(*numbers, str(message["host"])[:200], int(message["pid"]), versions)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("a message", f"is no report: {error}") from error


def _check(member: Member, known: Member | None, own: Member) -> None:
    """Raises UserError where a process does not suit those before it."""
    if member.processes != own.processes:
        reason = f"says that there are {member.processes} processes, process 0 says {own.processes}"
        raise UserError(member, reason, "set the same JAX_NUM_PROCESSES everywhere")
    if known is not None or not 0 < member.process < own.processes:
        reason = (
            f"has the number of another one on host {known.host}, pid {known.pid}"
            if known
            else (f"is none of 0 to {own.processes - 1}")
        )
        raise UserError(member, reason, "give each process its own JAX_PROCESS_ID")
    for name in SAME:
        there, here = member.versions.get(name), own.versions[name]
        if there != here:
            reason = f"has {name} {there}, process 0 has {here}"
            raise UserError(member, reason, "install the same versions everywhere")
