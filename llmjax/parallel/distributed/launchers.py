"""Links processes that a launcher known to JAX has started, once JAX has connected them.

JAX finds its coordinator by itself there, so there is no address that processes could report to
before. Process 0 opens a port of its own, and the others learn of it through JAX.
"""

import contextlib
import logging
import socket

import jax

from llmjax.errors import UserError
from llmjax.parallel.distributed.link import Link
from llmjax.parallel.distributed.roll_call import ProcessGroup, Rendezvous, call_roll
from llmjax.parallel.distributed.texts import text_of, texts_of_all

REACH = 20.0
"""Seconds to connect to process 0. All start together, since JAX has just connected them."""
ANYWHERE = ("192.0.2.1", 9)
"""An address that is nobody's (RFC 5737), to ask which of this host's addresses leads outside."""

log = logging.getLogger(__name__)


def link_after_start() -> Link | None:
    """Connects all processes, each of which calls this after `jax.distributed.initialize`.

    Returns:
      The link; None for a single process, or if one cannot reach process 0, which is logged.
    """
    process, processes = jax.process_index(), jax.process_count()
    if processes == 1:
        return None
    address = text_of(0, f"{own_address()}:{_free_port()}" if process == 0 else "")
    group, problem = None, ""
    try:
        group = call_roll(Rendezvous(address, processes, process), REACH, REACH)
    except UserError as error:
        problem = str(error)
    problems = [text for text in texts_of_all(problem) if text]
    if group is not None and not problems:
        return Link(process, group)
    _close(group)
    if process == 0:
        log.warning("processes that die or hang are left to the launcher: %s", problems[0])
    return None


def own_address() -> str:
    """The address under which other hosts reach this one: that of the default route, or the host's
    name where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ANYWHERE)  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _free_port() -> int:
    with socket.create_server(("", 0)) as listener:
        return int(listener.getsockname()[1])


def _close(group: ProcessGroup | None) -> None:
    for connection in group.connections.values() if group else ():
        with contextlib.suppress(OSError):
            connection.close()
