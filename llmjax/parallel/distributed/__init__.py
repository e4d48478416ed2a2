"""Multi-process runs, joined where the environment says that there are several processes.

Each of these variables says so:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID   explicit: host:port, N, 0 to N-1
    SLURM_STEP_NUM_TASKS        srun with more than one task
    OMPI_COMM_WORLD_SIZE        mpirun with more than one process
    TPU_WORKER_HOSTNAMES, TPU_PROCESS_ADDRESSES    a TPU slice of several hosts on GKE
    MEGASCALE_NUM_SLICES        several TPU slices on GKE
    JOBSET_NAME and NNODES      a JobSet of GPU pods, as xpk starts them
    LLMJAX_DISTRIBUTED=1        let JAX detect it (Cloud TPU VMs have only a metadata server)

With the first three and in a JobSet of GPU pods, processes report to process 0 before JAX starts
(see `roll_call`), else once JAX has connected them (see `launchers`). From then on they notice when
another one ends or no longer answers (see `link`, `heartbeat`).
"""

import os

import jax

from llmjax.errors import UserError
from llmjax.parallel.distributed.environment import explicit, launched, rendezvous
from llmjax.parallel.distributed.forward import forward
from llmjax.parallel.distributed.launchers import link_after_start
from llmjax.parallel.distributed.link import Link, Work
from llmjax.parallel.distributed.roll_call import Rendezvous, call_roll

__all__ = ["Link", "Rendezvous", "Work", "explicit", "join", "launched", "rendezvous"]

JOINING = 120
"""Timeout in seconds of JAX's initialization, once all processes have reported."""
HEARTBEAT = 300
"""Seconds of silence, at least, after which JAX declares a process dead, and aborts all others with
a C++ stack trace. The link notices earlier."""

_links: list[Link] = []


def join(silence: float = 0.0) -> Link | None:
    """Initializes `jax.distributed` if this process was launched as one of several.

    Call it before anything uses a device; further calls only set `silence`.

    Args:
      silence: seconds after which a process that does not answer ends the run; 0: never.

    Returns:
      The link to the other processes; None for a single process, or if they cannot be linked.

    Raises:
      UserError: the variables contradict each other, or the processes cannot connect.
    """
    if jax.distributed.is_initialized():
        for known in _links:
            known.heartbeat.seconds = silence
        return _links[-1] if _links else None
    meeting = rendezvous(os.environ)
    if meeting is None and not launched(os.environ):
        return None
    # Its notifier would replace our SIGTERM handler.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        link = _launched(silence) if meeting is None else _met(meeting, silence)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            "jax.distributed",
            f"the processes could not connect: {str(error).splitlines()[0]}",
            "every process needs the same coordinator, reachable from all; see launch/README.md",
        ) from error
    if link is not None:
        link.heartbeat.seconds = silence
        _links.append(link)
    return link


def _met(meeting: Rendezvous, silence: float) -> Link:
    """Joins processes that know their rendezvous: the link is made before JAX starts."""
    link = Link(meeting.process, call_roll(meeting))
    link.heartbeat.seconds = silence
    jax.distributed.initialize(
        meeting.coordinator if meeting.process == 0 else forward(meeting),
        meeting.processes,
        meeting.process,
        initialization_timeout=JOINING,
        heartbeat_timeout_seconds=later_than(silence),
    )
    return link


def _launched(silence: float) -> Link | None:
    """Joins processes of a launcher known to JAX."""
    jax.distributed.initialize(heartbeat_timeout_seconds=later_than(silence))
    return link_after_start()


def later_than(silence: float) -> int:
    """JAX's limit of silence, long after that of the link: what JAX ends is not named."""
    return max(HEARTBEAT, 60 + 2 * round(silence))
