#!/usr/bin/env python3
"""Train on a Ray cluster, with a process for each of N GPUs:

    ray job submit --working-dir . -- python launch/ray_train.py N CONFIG --run-dir /shared/NAME

Further fields of the config may follow. All nodes need `pip install 'llmjax[cuda13,ray]'` and share
the file system of the run folder. Before N, `--gpus 0` trains on CPUs, and `--cpus C` reserves C
cores for each process (4). SIGTERM and Ctrl-C are passed on: all processes save, and the exit code
is 75; `ray job stop` waits for that only as long as the variable RAY_JOB_STOP_WAIT_TIME_S of the
job's runtime environment says (3 s). A run that hung (76) or lost a node starts again, up to
`--restarts` (10) times.
"""

import argparse
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

try:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
except ImportError:
    sys.exit("llmjax: error: Ray is not installed; pip install 'llmjax[ray]'")

HUNG, FAILED = 76, 1
PLACED = 600
"""Seconds that the cluster may take to have room for all processes."""
ENDING = 120
"""Seconds after which those that have not ended are killed, once one has failed: they may hang."""


@ray.remote(max_restarts=0)
class Process:
    """Runs one process of the training, in the place that Ray gave it."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None

    def address(self) -> str:
        """This node's address with a free port, for process 0."""
        with socket.create_server(("", 0)) as probe:
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def run(self, coordinator: str, count: int, index: int, arguments: Sequence[str]) -> int:
        """Trains, and returns the exit code."""
        variables = {
            "JAX_COORDINATOR_ADDRESS": coordinator,
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
        command = [sys.executable, "-m", "llmjax", "train", *arguments]
        self.child = subprocess.Popen(command, env=os.environ | variables)
        code = self.child.wait()
        return code if code >= 0 else 128 - code

    def send(self, number: int) -> None:
        """Sends a signal to the process."""
        if self.child:
            self.child.send_signal(number)


class Signals:
    """Whether SIGTERM or SIGINT came."""

    def __init__(self) -> None:
        self.received = False
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._receive)

    def _receive(self, *_: object) -> None:
        self.received = True


def train_once(options: argparse.Namespace, group: object, stopped: Signals) -> int:
    """Starts the processes and waits for all of them.

    Returns:
      The first exit code that is not 0; 76 if a node was lost.
    """
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
    processes = [
        Process.options(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            max_concurrency=2,  # one is told to stop while it runs
            scheduling_strategy=strategy(group, placement_group_bundle_index=index),
        ).remote()
        for index in range(options.processes)
    ]
    try:
        coordinator = ray.get(processes[0].address.remote())
        runs = [
            process.run.remote(coordinator, options.processes, index, options.arguments)
            for index, process in enumerate(processes)
        ]
        left, passed_on, code, until = runs, False, 0, math.inf
        while left and time.monotonic() < until:
            done, left = ray.wait(left, timeout=0.5)
            code = code or next(filter(None, ray.get(done)), 0)
            until = min(until, time.monotonic() + ENDING) if code else math.inf
            if stopped.received and not passed_on:
                passed_on = True
                for process in processes:
                    process.send.remote(signal.SIGTERM)
        return code
    except ray.exceptions.RayActorError as error:
        print(f"llmjax: error: Ray lost a process: {str(error).splitlines()[0]}", file=sys.stderr)
        return HUNG
    finally:
        ends = [process.send.remote(signal.SIGKILL) for process in processes]
        ray.wait(ends, num_returns=len(ends), timeout=10)
        for process in processes:
            ray.kill(process)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=4)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("processes", metavar="N", type=int)
    parser.add_argument("arguments", metavar="CONFIG ...", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if options.processes < 1 or not options.arguments:
        parser.error("give N, at least 1, and a config")
    ray.init(log_to_driver=True)
    stopped = Signals()
    bundle = {"CPU": options.cpus} | ({"GPU": options.gpus} if options.gpus else {})
    group = placement_group([bundle] * options.processes, strategy="PACK")
    try:
        if not group.wait(PLACED):
            print(
                f"llmjax: error: Ray has no room for {options.processes} processes of {bundle}: "
                f"it has {ray.cluster_resources()}",
                file=sys.stderr,
            )
            return FAILED
        for _ in range(options.restarts + 1):
            code = train_once(options, group, stopped)
            if code != HUNG or stopped.received:
                break
        return code
    finally:
        remove_placement_group(group)
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
