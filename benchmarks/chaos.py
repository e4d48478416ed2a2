"""Kills and stops processes of a run at random, restarts it, and compares it with an undisturbed
one.

Command: python -m benchmarks.chaos [--events 30] [--watchdog 20] [--kinds kill stop] [--seed 0]
         [--steps 120]
`launch/local.sh` trains the smoke preset in four processes of one CPU device each. An event is
SIGKILL or SIGSTOP of one of them, at a random moment of a random activity: starting, compiling,
training, evaluating or saving. Another process, or the launcher, must name it; the launcher must
end, and is started again, as by SLURM or Kubernetes. Half of the events meet a run that also saves
to local disks (checkpoint.local_dir); of these, a third destroys the process's disk too. In the
end, parameters and logged losses must be bit for bit those of the undisturbed run, and the times of
goodput.json must add up to the wall time. Prints a line per event, the goodput of each run, and
JSON.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.kill_resume import outcome

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 4
OPTIONS = (
    "--model.d-model 64 --model.num-decoder-layers 1 --compute.dropout 0.1 "
    "--mesh.data 2 --mesh.fsdp 2 --checkpoint.every 4 --evaluation.every 3 "
    "--evaluation.max-tokens 2048 --samples.every 0 --log.every 1 --log.display none"
).split()
FLAGS = "--xla_backend_optimization_level=0"
"""XLA compiles faster: on a loaded machine, four processes of two cores compile for minutes."""
LOCAL = "--checkpoint.local-every 2 --checkpoint.every 12".split()
RESTARTED = {75, 76, 77, 128 + signal.SIGKILL}
"""Exit codes after which the run is started again: those of launch/README.md, and a kill's."""
MOMENTS = ("start", "compile", "steps", "evaluation", "saving")
NAMED = re.compile(
    r"llmjax: error: process (\d+) \(host (\S+), pid (\d+)\) (?:died|hangs)(?: at step (\d+))?"
)
UNSEEN = re.compile(
    r"llmjax: error: .*?process (\d+)"
    r"(?: of \d+ did not come| cannot be reached| hung up|.*was killed by)"
)
"""Of a process that had not reported yet: nobody knows more of it than its number."""
OPEN_MPI = "CHAOS_OPEN_MPI"
GIVE_UP = 300.0
"""Seconds after which an event that nobody noticed is recorded as such."""


@dataclass
class Event:
    """What was done to which process when, and what came of it."""

    kind: str
    process: int
    during: str = ""
    lost_disk: bool = False
    named: int | None = None
    host: str = ""
    step: int | None = None
    seconds: float | None = None
    code: int | None = None
    line: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the process was named, and the launcher's code is one that is restarted."""
        return self.named == self.process and self.code in RESTARTED

    def row(self, number: int) -> str:
        """A line of the table."""
        seconds = "never" if self.seconds is None else f"{self.seconds:.1f} s"
        step = "n/a" if self.step is None else self.step
        disk = " and its disk" if self.lost_disk else ""
        return (
            f"{number:3}  {self.kind:4}  process {self.process}{disk}, {self.during:10}  "
            f"named after {seconds:>7}, step {step!s:>3}, exit code {self.code}"
            f"{'' if self.is_right else '  WRONG: ' + self.line}"
        )


@dataclass
class Chaos:
    """A folder with a run, its launcher and the activities of its processes."""

    folder: Path
    watchdog: float
    options: list[str]
    """Besides OPTIONS."""
    began: float = 0.0
    """When the first start that left a run folder was started."""
    last: float = 0.0
    """When the last start ended."""

    def start(self) -> subprocess.Popen:
        """Starts the launcher, with its output in a file."""
        for old in self.folder.glob("activity.*"):
            old.unlink()
        if not (self.folder / "run").exists():  # a start that trains nothing leaves no folder
            self.began = time.time()
        wrapper = self.folder / "llmjax"
        here = shlex.join([sys.executable, "-m", "benchmarks.chaos", "--worker", str(self.folder)])
        # In a session of its own, since Linux shares processors among sessions first.
        wrapper.write_text(f'#!/bin/sh\nexec setsid {here} "$@"\n')
        wrapper.chmod(0o755)
        paths = ["--run-dir", str(self.folder / "run"), "--sources", str(ROOT / "docs" / "*.md")]
        paths += ["--data.cache-dir", str(self.folder.parent / "cache")]
        command = [str(ROOT / "launch" / "local.sh"), str(PROCESSES), "smoke", *paths, *OPTIONS]
        limits = {"LLMJAX": str(wrapper), "LLMJAX_JOIN_SECONDS": str(2 * round(self.watchdog))}
        environment = os.environ | limits | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": FLAGS}
        with (self.folder / "log").open("w") as log:
            return subprocess.Popen(
                [*command, "--log.watchdog", str(self.watchdog), *self.options],
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def lines(self) -> list[str]:
        """The last lines of llmjax that this start printed."""
        lines = (self.folder / "log").read_text().splitlines()
        return [line for line in lines if line.startswith("llmjax: ")][-3:]

    @property
    def wall(self) -> float:
        """Seconds from the first start that left a run folder to the last end."""
        return self.last - self.began

    def again(self) -> subprocess.Popen:
        """Starts the launcher after a failure that was no event, which is shown."""
        print("     undisturbed, but:", " | ".join(self.lines()[-1:]), flush=True)
        return self.start()

    def activity(self, process: int) -> tuple[int, str]:
        """A process's id and what it is doing; 0 before it runs."""
        try:
            number, name = (self.folder / f"activity.{process}").read_text().split()
        except (OSError, ValueError):
            return 0, ""
        return int(number), name

    def strike(self, launcher: subprocess.Popen, event: Event, rng: random.Random) -> int:
        """Waits for a random moment of the event's activity; returns its process's id.

        Raises:
          ProcessLookupError: the run ended before.
        """
        wanted, passes = event.during, rng.randint(1, 2)
        before = ""
        while True:
            pid, name = self.activity(event.process)
            name = "start" if name == "import" else name
            passes -= name == wanted and before != wanted
            before = name
            if name == wanted and (passes <= 0 or wanted in ("start", "compile")):
                break
            if launcher.poll() is not None:
                raise ProcessLookupError
            time.sleep(0.005)
        time.sleep(rng.uniform(0, {"start": 20, "compile": 4, "steps": 1}.get(wanted, 0.5)))
        event.during = self.activity(event.process)[1]
        os.kill(pid, signal.SIGKILL if event.kind == "kill" else signal.SIGSTOP)
        return pid

    def disturb(self, event: Event, rng: random.Random) -> bool:
        """Starts the run, and disturbs it; returns whether it did not end before that."""
        launcher = self.start()
        while True:
            try:
                pid = self.strike(launcher, event, rng)
                break
            except ProcessLookupError:
                if launcher.returncode not in RESTARTED:
                    return False
                launcher = self.again()
        struck = time.time()
        while time.time() < struck + GIVE_UP:
            ended, text = launcher.poll() is not None, (self.folder / "log").read_text()
            if event.named is None and (match := NAMED.search(text)):
                event.named, event.step = int(match[1]), int(match[4]) if match[4] else None
                event.host = match[2]
                assert event.named != event.process or int(match[3]) == pid
            elif event.named is None and (match := UNSEEN.search(text)):
                event.named = int(match[1])
            if event.named is not None and event.seconds is None:
                event.seconds = time.time() - struck
            if ended:
                break
            time.sleep(0.02)
        event.line = " | ".join(self.lines())
        event.code = self.end(launcher)
        if event.lost_disk:
            for disk in (self.folder / "local").glob(f"*/process_{event.process}"):
                shutil.rmtree(disk)
        return True

    def end(self, launcher: subprocess.Popen) -> int | None:
        """The launcher's exit code; None if it still runs: it is ended."""
        code = launcher.poll()
        self.last = time.time()
        if code is None:
            launcher.kill()
            for process in range(PROCESSES):
                if pid := self.activity(process)[0]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        return code

    def finish(self) -> None:
        """Trains to the end, undisturbed."""
        launcher = self.start()
        while launcher.wait() in RESTARTED:
            launcher = self.again()
        self.last = time.time()
        if launcher.returncode:
            raise SystemExit(f"the last start failed:\n{(self.folder / 'log').read_text()}")


def under_open_mpi() -> None:
    """Says by the variables of mpirun what the three variables say."""
    port = os.environ.pop("JAX_COORDINATOR_ADDRESS").rpartition(":")[2]
    index, count = os.environ["JAX_PROCESS_ID"], os.environ["JAX_NUM_PROCESSES"]
    os.environ |= {
        "OMPI_MCA_orte_hnp_uri": f"{int(port) % 4096 * 4096}.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": count,
        "OMPI_COMM_WORLD_RANK": index,
        "OMPI_COMM_WORLD_LOCAL_RANK": index,
    }


def worker(folder: Path, words: list[str]) -> int:
    """Runs llmjax, and writes what it is doing into a file."""
    if os.environ.get(OPEN_MPI):
        under_open_mpi()
    file = folder / f"activity.{os.environ['JAX_PROCESS_ID']}"

    def note(activity: str) -> None:
        new = file.with_suffix(file.suffix + "new")
        new.write_text(f"{os.getpid()} {activity}")
        new.replace(file)

    note("import")
    import llmjax.cli.train  # noqa: F401 (takes seconds)
    from llmjax.cli.main import main
    from llmjax.run.telemetry.goodput import Goodput

    switch = Goodput._switch

    def switching(self, activity):
        note(activity)
        switch(self, activity)

    Goodput._switch = switching
    note("start")
    sys.argv[1:] = words
    return main()


def goodput_table(chaos: Chaos) -> tuple[list[str], float]:
    """The times of goodput.json in lines, and their sum as a share of the wall time."""
    stored = json.loads((chaos.folder / "run" / "goodput.json").read_text())
    seconds, wall = stored["seconds"], chaos.wall
    total = sum(seconds.values())
    lines = [
        f"  {name:10} {value:8.1f} s  {value / total:6.1%}"
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
        if value
    ]
    lines += [f"  {'sum':10} {total:8.1f} s  of {wall:.1f} s from the first start to the last end"]
    return lines, total / wall


def events_of(count: int, kinds: list[str], local: bool, rng: random.Random) -> Iterator[Event]:
    """Random events; each kind and each activity comes equally often."""
    moments = [MOMENTS[index % len(MOMENTS)] for index in range(count)]
    rng.shuffle(moments)
    chosen = [kinds[index % len(kinds)] for index in range(count)]
    rng.shuffle(chosen)
    for index, (kind, moment) in enumerate(zip(chosen, moments, strict=True)):
        yield Event(kind, rng.randrange(PROCESSES), moment, lost_disk=local and index % 3 == 0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--events", type=int, default=30, help="half of them with local disks")
    parser.add_argument("--kinds", nargs="+", choices=("kill", "stop"), default=["kill", "stop"])
    parser.add_argument("--watchdog", type=float, default=20.0, help="log.watchdog, in seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the events")
    parser.add_argument("--steps", type=int, default=120, help="of each run")
    parser.add_argument("--no-local", action="store_true", help="all without local disks")
    parser.add_argument(
        "--open-mpi", action="store_true", help="JAX finds its coordinator, as under mpirun"
    )
    args = parser.parse_args(arguments)
    if args.open_mpi:
        os.environ[OPEN_MPI] = "1"
    rng = random.Random(args.seed)
    halves = [(args.events, False)]
    if not args.no_local:
        halves = [(args.events - args.events // 2, False), (args.events // 2, True)]
    result: dict = {"host": socket.gethostname(), "events": [], "runs": []}
    with tempfile.TemporaryDirectory() as temporary:
        steps = ["--steps", str(args.steps)]
        undisturbed = Chaos(Path(temporary) / "undisturbed", args.watchdog, steps)
        undisturbed.folder.mkdir()
        undisturbed.finish()
        expected = outcome(undisturbed.folder)
        print(f"undisturbed: {undisturbed.wall:.0f} s", flush=True)
        for count, local in halves:
            folder = Path(temporary) / ("local" if local else "shared")
            folder.mkdir()
            options = [*LOCAL, "--checkpoint.local-dir", str(folder / "local")] if local else []
            chaos = Chaos(folder, args.watchdog, [*steps, *options])
            print(f"{count} events" + (" with local checkpoints" if local else ""), flush=True)
            for event in events_of(count, args.kinds, local, rng):
                if not chaos.disturb(event, rng):
                    print("the run ended before its events: raise --steps", flush=True)
                    break
                print(event.row(len(result["events"]) + 1), flush=True)
                result["events"].append(asdict(event))
            chaos.finish()
            is_equal = outcome(folder) == expected
            lines, share = goodput_table(chaos)
            print("\n".join(lines), f"  parameters and losses equal: {is_equal}", sep="\n")
            result["runs"].append({"equal": is_equal, "goodput_sum_of_wall": share})
    done = [Event(**event) for event in result["events"]]
    right = sum(event.is_right for event in done)
    for kind in args.kinds:
        times = [event.seconds for event in done if event.kind == kind and event.seconds]
        print(f"{kind}: named after at most {max(times, default=0):.1f} s")
    equal = all(run["equal"] for run in result["runs"])
    print(f"{right} of {len(done)} named, with the code to restart; bit-equal: {equal}")
    print(json.dumps(result))
    return 0 if right == len(done) == args.events and equal else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        sys.exit(worker(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(main())
