"""Measures llmjax on one NVIDIA GPU, beside PyTorch and Transformers; see docs/performance.md.

Command: benchmarks/gpu.sh [--json FILE] [--budget SECONDS] [--parts NAME,NAME] [--toy]
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import Device, find_device, versions
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.processes import Outcome, environment, run_part
from benchmarks.gpu.report import lines_of, table, write_json
from llmjax.parallel.chips import chip_of

BUDGET = 470
"""Seconds: eight minutes, less those in which the last part is ended and the table is written."""

TOY_LIMIT = 600
"""Seconds of a part, however busy the machine is."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", type=Path, default=Path("runs/gpu.json"), metavar="FILE")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS")
    names = ", ".join(part.name for part in PARTS)
    parser.add_argument("--parts", default="", help=f"of {names}; all, unless named")
    parser.add_argument("--toy", action="store_true", help="toy sizes on a CPU")
    args = parser.parse_args(arguments)
    chosen = [name for name in args.parts.split(",") if name]
    unknown = sorted(set(chosen) - {part.name for part in PARTS})
    if unknown:
        parser.error(f"--parts {', '.join(unknown)}: there is no such part; there are {names}")
    args.chosen = [part for part in PARTS if not chosen or part.name in chosen]
    return args


def main() -> int:
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the part that runs, too
    args = parse()
    variables = environment(args.toy)
    device: Device | str = Device("CPU", 0.0, None) if args.toy else find_device(variables)
    if isinstance(device, str):
        reason = f"there is no GPU that JAX can use ({device}); --toy runs on a CPU"
        print(f"gpu.sh: {reason}", file=sys.stderr)
        return 2
    result: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device.kind,
        "free_bytes": device.memory,
        "driver": device.driver,
        "versions": versions(),
        "toy": args.toy,
        "budget": args.budget,
    }
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="llmjax-gpu-") as folder:
        for part in args.chosen:
            left = args.budget - (time.monotonic() - started)
            print(f"{part.name}: {left:.0f} s are left", file=sys.stderr, flush=True)
            outcomes.append(_measure(part, Path(folder), device.memory, args.toy, left, variables))
            write_json(args.json, finished(result, outcomes))
    result = finished(result, outcomes)
    print(f"{result['device']}, driver {result['driver'] or 'n/a'}, {result['started']}")
    print(", ".join(f"{name} {each}" for name, each in result["versions"].items()))
    print(table(result["lines"]))
    print(json.dumps(result))
    return 0


def _measure(
    part: Part, folder: Path, memory: float, toy: bool, left: float, variables: dict[str, str]
) -> Outcome:
    """Runs a part if the time that is left suffices; a toy is not measured, and takes its time."""
    if toy:
        return run_part(part, folder, memory, toy, TOY_LIMIT, variables)
    if left < part.expected:
        reason = f"skipped: it takes about {part.expected} s, and {left:.0f} s are left"
        return Outcome(part, reason=reason)
    return run_part(part, folder, memory, toy, min(part.limit, left), variables)


def finished(result: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The result with what has been measured so far."""
    return result | {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "lines": lines_of(outcomes, chip_of(result["device"])),
        "seconds": {each.part.name: round(each.seconds, 1) for each in outcomes},
    }


if __name__ == "__main__":
    sys.exit(main())
