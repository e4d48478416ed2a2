"""Several processes as one program: joins them when a launcher's environment says so.

A plain machine has none of these variables, and nothing happens there:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID   spelt out: host:port, N, 0 to N-1
    SLURM_STEP_NUM_TASKS        srun with more than one task
    OMPI_COMM_WORLD_SIZE        mpirun with more than one process
    TPU_WORKER_HOSTNAMES, TPU_PROCESS_ADDRESSES    a TPU slice of several hosts on GKE
    LLMJAX_DISTRIBUTED=1        let JAX find out (Cloud TPU VMs have a metadata server only)

Where the first three are set, the processes report to process 0 before JAX starts (see `roll_call`)
and learn of each other's end (see `link`). Launchers do both in their own way.
"""

import os
from collections.abc import Mapping

import jax

from llmjax.errors import UserError
from llmjax.parallel.distributed.forward import forward
from llmjax.parallel.distributed.link import Link, Work
from llmjax.parallel.distributed.roll_call import Place, call_roll

__all__ = ["Link", "Place", "Work", "explicit", "join", "launched"]

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


JOINING = 120
"""Seconds in which JAX must have joined processes that are known to be there."""
HEARTBEAT = 300
"""Seconds of silence after which JAX takes a process for dead; the link knows better."""

_links: list[Link] = []


def join() -> Link | None:
    """Initialises `jax.distributed` if this process was launched as one of several.

    Call it before anything touches a device; calling it again does nothing.

    Returns:
      The link to the other processes; None for a process alone, or where a launcher watches them.

    Raises:
      UserError: the variables contradict each other, or the processes do not find together.
    """
    if jax.distributed.is_initialized():
        return _links[-1] if _links else None
    place = explicit(os.environ)
    if place is None and not launched(os.environ):
        return None
    # Its notifier would take SIGTERM away from whoever listens to it here.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if place is None:
            jax.distributed.initialize()
            return None
        link = Link(place.process, call_roll(place))
        jax.distributed.initialize(
            place.coordinator if place.process == 0 else forward(place),
            place.processes,
            place.process,
            initialization_timeout=JOINING,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            "jax.distributed",
            f"the processes did not find together: {str(error).splitlines()[0]}",
            "every process needs the same coordinator, reachable from all; see launch/README.md",
        ) from error
    _links.append(link)
    return link


def explicit(environment: Mapping[str, str]) -> Place | None:
    """The place that the environment spells out; None if it does not.

    Raises:
      UserError: some of the variables are missing, no numbers, or out of range.
    """
    given = [name for name in EXPLICIT if environment.get(name)]
    if EXPLICIT[0] not in given:
        return None
    if missing := set(EXPLICIT) - set(given):
        raise UserError(", ".join(sorted(missing)), f"not set, but {EXPLICIT[0]} is", "set all")
    address, count, index = (environment[name] for name in EXPLICIT)
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"{EXPLICIT[1]}={count} {EXPLICIT[2]}={index}",
            "must be N and a number from 0 to N - 1",
        )
    if not address.rpartition(":")[2].isdecimal():
        raise UserError(f"{EXPLICIT[0]}={address}", "must be HOST:PORT")
    return Place(address, int(count), int(index))


def launched(environment: Mapping[str, str]) -> bool:
    """Whether a launcher that JAX knows has started this process as one of several."""
    if environment.get("LLMJAX_DISTRIBUTED", "0") not in ("", "0"):
        return True
    counts = (environment.get(name, "") for name in COUNTS)
    lists = (environment.get(name, "") for name in LISTS)
    return any(count.isdecimal() and int(count) > 1 for count in counts) or any(
        "," in hosts for hosts in lists
    )
