"""Runs a part in a process of its own, with a time limit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.parts import Part

ROOT = Path(__file__).parents[2]
PIP = {"sklearn": "scikit-learn", "orbax": "orbax-checkpoint", "google": "protobuf"}
"""Module -> its package, where the names differ."""
LONGEST_REASON = 160
_MISSING = re.compile(r"No module named '([\w]+)")
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*")


@dataclass
class Outcome:
    """What a part left."""

    part: Part
    rows: list[dict] = field(default_factory=list)
    """Its results, those before it was ended too."""
    reason: str | None = None
    """Why there are none, or no more; None: it finished."""
    seconds: float = 0.0


def environment(toy: bool) -> dict[str, str]:
    """Of all processes: one GPU, whose memory each takes as it needs it; or CPUs alone."""
    changed = dict(os.environ) | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    if toy:
        flags = "--xla_backend_optimization_level=0"  # compiles fast, and computes slowly
        return changed | {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    visible = changed.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    changed.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # the older name of the next but one
    return changed | {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": visible,
        "JAX_PLATFORMS": "cuda",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_CLIENT_MEM_FRACTION": "0.92",
    }


def run_part(
    part: Part, folder: Path, memory: float, toy: bool, limit: float, variables: Mapping[str, str]
) -> Outcome:
    """Runs a part.

    Args:
      part: to run.
      folder: shared by the parts; gets the part's output.
      memory: free bytes of the device.
      toy: whether sizes are those of a toy.
      limit: seconds after which it is ended, with all processes that it started.
      variables: its environment.
    """
    command = [sys.executable, "-m", part.module, *part.arguments, "--folder", str(folder)]
    command += ["--memory", str(memory), *(["--toy"] if toy else [])]
    out, err = folder / f"{part.name}.out", folder / f"{part.name}.err"
    start = time.monotonic()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(variables), stdin=subprocess.DEVNULL,
            stdout=stdout, stderr=stderr, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    outcome = Outcome(part, _rows(out), seconds=time.monotonic() - start)
    if code is None:
        outcome.reason = f"ended after {limit:.0f} s"
    elif code:
        outcome.reason = reason_of(err.read_text(errors="replace"), code)
    elif not outcome.rows:
        outcome.reason = "it printed no result"
    return outcome


def _end(process: subprocess.Popen) -> None:
    """Ends a process and those of its session, which it may have left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _rows(path: Path) -> list[dict]:
    """The JSON objects among a process's lines; a last one may be cut."""
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith('{"case"'):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


def reason_of(stderr: str, code: int) -> str:
    """Why a process failed, in a line: a missing package, its last error, or its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    found = (errors or lines or [f"exit code {code}"])[-1]
    if missing := _MISSING.search(found):
        package = PIP.get(missing[1], missing[1].replace("_", "-"))
        return f"needs {missing[1]}: pip install {package}"
    return found if len(found) <= LONGEST_REASON else found[: LONGEST_REASON - 1] + "…"
