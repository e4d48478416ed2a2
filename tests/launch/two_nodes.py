"""A SLURM cluster of two nodes on this machine, in a folder and on ports of its own; needs root."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
START = 20.0
"""Seconds that the daemons may take to start."""

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPort={ports[0]}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
MpiDefault=none
FirstJobId={first}
JobRequeue=1
KillWait=20
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName={host}-2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=p Nodes={host},{host}-2 Default=YES State=UP
"""


class NoSlurm(Exception):
    """SLURM is not installed here, or does not start."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: its folder, and the environment of its commands."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """The output of a command of SLURM, which has 20 seconds."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition became true within so many seconds."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return met


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """Starts the daemons, and stops them with all jobs.

    Raises:
      NoSlurm: they are not installed, may not be started, or do not start.
    """
    if missing := [name for name in DAEMONS if not shutil.which(name)]:
        raise NoSlurm(f"{missing[0]} is not installed")
    host = socket.gethostname()
    if os.geteuid() != 0:
        raise NoSlurm("only root may start it")
    for name in ("state", f"spool-{host}", f"spool-{host}-2"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o600)
    config = folder / "slurm.conf"
    # The coordinator's port depends on the job's number: two clusters on this machine need others.
    first = os.getpid() % 4000 + 1
    config.write_text(CONFIG.format(host=host, folder=folder, ports=_free_ports(3), first=first))
    cluster = Cluster(folder, os.environ | {"SLURM_CONF": str(config)})
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
    munge = [f"--{option}={folder}/munge.{end}" for option, end in files.items()]
    with contextlib.ExitStack() as stack:
        for command in (
            ["munged", "--foreground", "--force", f"--log-file={folder}/munge.log", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", host],
            ["slurmd", "-D", "-N", f"{host}-2"],
        ):
            stack.enter_context(_daemon(command, cluster))
            if command[0] == "munged" and not wait_for((folder / "munge.socket").exists, START):
                raise NoSlurm("munged does not start")
        if not wait_for(lambda: _idle(cluster) == 2, START):
            raise NoSlurm(f"the nodes do not start: see {folder}")
        try:
            yield cluster
        finally:
            with contextlib.suppress(subprocess.SubprocessError):
                cluster.run("scancel", "--user=root")
                wait_for(lambda: not cluster.run("squeue", "--noheader"), 10)


def _idle(cluster: Cluster) -> int:
    try:
        return cluster.run("sinfo", "--noheader", "--Node", "--states=idle").count("idle")
    except subprocess.SubprocessError:
        return 0


@contextlib.contextmanager
def _daemon(command: list[str], cluster: Cluster) -> Iterator[None]:
    log = cluster.folder / f"{command[0]}-{command[-1].strip('-')[:20].replace('/', '_')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
