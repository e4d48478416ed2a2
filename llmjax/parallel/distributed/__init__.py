"""Multi-process runs, joined where the environment says that there are several processes.

Each of these variables says so:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID   explicit: host:port, N, 0 to N-1
    SLURM_STEP_NUM_TASKS        srun with more than one task
    OMPI_COMM_WORLD_SIZE        mpirun with more than one process
    TPU_WORKER_HOSTNAMES, TPU_PROCESS_ADDRESSES    a TPU slice of several hosts on GKE
    LLMJAX_DISTRIBUTED=1        let JAX detect it (Cloud TPU VMs have only a metadata server)

With the first three, processes report to process 0 before JAX starts (see `roll_call`) and are
notified when another one ends (see `link`). Launchers do both themselves.
"""

import os
from collections.abc import Mapping

import jax

from llmjax.errors import UserError
from llmjax.parallel.distributed.forward import forward
from llmjax.parallel.distributed.link import Link, Work
from llmjax.parallel.distributed.roll_call import Rendezvous, call_roll

__all__ = ["Link", "Rendezvous", "Work", "explicit", "join", "launched"]

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


JOINING = 120
"""Timeout in seconds of JAX's initialization, once all processes have reported."""
HEARTBEAT = 300
"""Seconds of silence after which JAX declares a process dead; the link notices earlier."""

_links: list[Link] = []


def join() -> Link | None:
    """Initializes `jax.distributed` if this process was launched as one of several.

    Call it before anything uses a device; further calls do nothing.

    Returns:
      The link to the other processes; None for a single process or under a launcher.

    Raises:
      UserError: the variables contradict each other, or the processes cannot connect.
    """
    if jax.distributed.is_initialized():
        return _links[-1] if _links else None
    rendezvous = explicit(os.environ)
    if rendezvous is None and not launched(os.environ):
        return None
    # Its notifier would replace our SIGTERM handler.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if rendezvous is None:
            jax.distributed.initialize()
            return None
        link = Link(rendezvous.process, call_roll(rendezvous))
        jax.distributed.initialize(
            rendezvous.coordinator if rendezvous.process == 0 else forward(rendezvous),
            rendezvous.processes,
            rendezvous.process,
            initialization_timeout=JOINING,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            "jax.distributed",
            f"the processes could not connect: {str(error).splitlines()[0]}",
            "every process needs the same coordinator, reachable from all; see launch/README.md",
        ) from error
    _links.append(link)
    return link


def explicit(environment: Mapping[str, str]) -> Rendezvous | None:
    """Returns the rendezvous that the environment states explicitly, or None.

    Raises:
      UserError: some of the variables are missing, not numbers, or out of range.
    """
    present = [name for name in EXPLICIT if environment.get(name)]
    if EXPLICIT[0] not in present:
        return None
    if missing := set(EXPLICIT) - set(present):
        raise UserError(", ".join(sorted(missing)), f"not set, but {EXPLICIT[0]} is", "set all")
    address, count, index = (environment[name] for name in EXPLICIT)
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"{EXPLICIT[1]}={count} {EXPLICIT[2]}={index}",
            "must be N and a number from 0 to N - 1",
        )
    if not address.rpartition(":")[2].isdecimal():
        raise UserError(f"{EXPLICIT[0]}={address}", "must be HOST:PORT")
    return Rendezvous(address, int(count), int(index))


def launched(environment: Mapping[str, str]) -> bool:
    """Whether a launcher known to JAX started this process as one of several."""
    if environment.get("LLMJAX_DISTRIBUTED", "0") not in ("", "0"):
        return True
    counts = (environment.get(name, "") for name in COUNTS)
    lists = (environment.get(name, "") for name in LISTS)
    return any(count.isdecimal() and int(count) > 1 for count in counts) or any(
        "," in hosts for hosts in lists
    )
