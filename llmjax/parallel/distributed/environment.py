"""What the environment says about the other processes of a run.

JAX detects the launchers of `launched` itself. It takes their variables as they are: if one is
missing, several processes would be the first, or end with a stack trace. So they are checked here.
"""

from collections.abc import Mapping

from llmjax.errors import UserError
from llmjax.parallel.distributed.roll_call import ADDRESS, Rendezvous

COUNT, INDEX = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
EXPLICIT = (ADDRESS, COUNT, INDEX)
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
LISTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
"""Hosts of this slice on GKE, in the order in which JAX looks for them."""
WORKER = "TPU_WORKER_ID"
SLICES, SLICE = "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"
MEGASCALE = (SLICES, SLICE, "MEGASCALE_COORDINATOR_ADDRESS")
MEGASCALE_PORT = "MEGASCALE_PORT"
DETECT = "LLMJAX_DISTRIBUTED"
JOBSET = ("JOBSET_NAME", "REPLICATED_JOB_NAME")
NODES, RANKS = "NNODES", ("NODE_RANK", "JOB_COMPLETION_INDEX")
PORT, PORT_NUMBER = "JAX_COORDINATOR_PORT", 8476


def rendezvous(environment: Mapping[str, str]) -> Rendezvous | None:
    """The rendezvous that the environment states, explicitly or as a JobSet; None if neither."""
    return _jobset(environment) or explicit(environment)


def explicit(environment: Mapping[str, str]) -> Rendezvous | None:
    """Returns the rendezvous that the environment states explicitly, or None.

    Raises:
      UserError: some of the variables are missing, not numbers, or out of range.
    """
    present = [name for name in EXPLICIT if environment.get(name)]
    if ADDRESS not in present:
        return None
    if missing := set(EXPLICIT) - set(present):
        raise UserError(", ".join(sorted(missing)), f"not set, but {ADDRESS} is", "set all")
    address, count, index = (environment[name] for name in EXPLICIT)
    _check_index(INDEX, index, COUNT, count)
    if not address.rpartition(":")[2].isdecimal():
        raise UserError(f"{ADDRESS}={address}", "must be HOST:PORT")
    return Rendezvous(address, int(count), int(index))


def _jobset(environment: Mapping[str, str]) -> Rendezvous | None:
    """The rendezvous of the pods of a JobSet with one job, as xpk starts them on GPUs, or None.

    Pod 0 of job 0 is the coordinator, under the name that a JobSet gives it. Pods of TPU slices are
    left to JAX.

    Raises:
      UserError: some of the variables are missing, not numbers, or out of range.
    """
    nodes = environment.get(NODES)
    tpu = any(environment.get(name) for name in (*LISTS, *MEGASCALE))
    if not nodes or not environment.get(JOBSET[0]) or environment.get(COUNT) or tpu:
        return None
    if not environment.get(JOBSET[1]):
        reason = f"not set, but {JOBSET[0]} and {NODES} are"
        raise UserError(JOBSET[1], reason, "set it to the name of the replicated job")
    rank = next((name for name in RANKS if environment.get(name)), None)
    if rank is None:
        raise UserError(" or ".join(RANKS), f"not set, but {NODES} is", "set the pod's number")
    _check_index(rank, environment[rank], NODES, nodes)
    name, job = (environment[name] for name in JOBSET)
    host = environment.get(ADDRESS) or f"{name}-{job}-0-0.{name}"
    if ":" not in host:
        port = environment.get(PORT) or str(PORT_NUMBER)
        host = f"{host}:{_port(PORT, port)}"
    return Rendezvous(host, int(nodes), int(environment[rank]))


def launched(environment: Mapping[str, str]) -> bool:
    """Whether a launcher known to JAX started this process as one of several.

    Raises:
      UserError: variables of TPU slices are missing, not numbers, or out of range.
    """
    if environment.get(DETECT, "0") not in ("", "0"):
        return True
    hosts = next((environment[name] for name in LISTS if environment.get(name)), "")
    slices = _slices(environment)
    if hosts and (slices > 1 or "," in hosts):
        _check_worker(environment, hosts)
    elif slices > 1:
        raise UserError(
            LISTS[1],
            f"not set, but {SLICES}={slices}",
            f"set it and {WORKER}, as GKE does; on Cloud TPU VMs, set {DETECT}=1",
        )
    counts = (environment.get(name, "") for name in COUNTS)
    several = any(count.isdecimal() and int(count) > 1 for count in counts)
    return several or slices > 1 or "," in hosts


def _slices(environment: Mapping[str, str]) -> int:
    """The number of TPU slices; 1 where nothing is said of several."""
    present = [name for name in MEGASCALE if environment.get(name)]
    if not present:
        return 1
    if missing := [name for name in MEGASCALE if name not in present]:
        fix = f"set {', '.join(MEGASCALE)} or none; on Cloud TPU VMs, set {DETECT}=1"
        raise UserError(", ".join(missing), f"not set, but {present[0]} is", fix)
    _check_index(SLICE, environment[SLICE], SLICES, environment[SLICES])
    if port := environment.get(MEGASCALE_PORT):
        _port(MEGASCALE_PORT, port)
    return int(environment[SLICES])


def _check_worker(environment: Mapping[str, str], hosts: str) -> None:
    """Raises UserError if this host's number in its slice is missing or not one of the slice's."""
    worker = environment.get(WORKER, "")
    count = hosts.count(",") + 1
    if not worker:
        raise UserError(
            WORKER, f"not set, but the slice has {count} hosts", "set the host's number"
        )
    if not (worker.isdecimal() and int(worker) < count):
        raise UserError(
            f"{WORKER}={worker}", f"must be a number from 0 to {count - 1}: hosts are {hosts}"
        )


def _check_index(name: str, index: str, count_name: str, count: str) -> None:
    """Raises UserError unless the texts are N and a number from 0 to N - 1."""
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"{count_name}={count} {name}={index}", "must be N and a number from 0 to N - 1"
        )


def _port(name: str, text: str) -> int:
    """The number of a port.

    Raises:
      UserError: the text is none.
    """
    if not (text.isdecimal() and 0 < int(text) < 1 << 16):
        raise UserError(f"{name}={text}", "must be a port: a number from 1 to 65535")
    return int(text)
