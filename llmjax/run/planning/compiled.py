"""What a compiler says of a config's training step, without a device (compiled).

The compiler runs in a process of its own, so that its crash, or a compilation that takes too long,
is one line. Memory is the program's own account; the time on TPUs is made of the cycles that the
compiler estimates, of the kernels of attention and experts, whose cycles it does not know, and of
the collectives that nothing runs beside.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.parallel.roofline import (
    StepTime,
    Transfer,
    attention_seconds,
    compiled_bandwidth,
    cycle_seconds,
    grouped_seconds,
)
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import to_json
from llmjax.run.planning.topology import Topology
from llmjax.storage.json_documents import parse_json

TIMEOUT = 1800
"""Seconds that a compilation may take."""
EXTRAS = {"tpu": ("libtpu", "plan-tpu"), "gpu": ("jax_cuda13_plugin", "plan-gpu")}
"""Platform -> the package of its compiler, and the extra of llmjax that installs it."""


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of the program of one device."""

    peak: float
    """Bytes, with code."""
    memory: dict[str, float]
    """Bytes by kind: arguments, temporaries, code."""
    collectives: tuple[dict[str, Any], ...]
    """Kind, axes, devices, times and wire_bytes of each group."""
    cycles: float | None
    """That the compiler estimates; None: it does not."""
    time: StepTime | None
    """None: not known from the compiler."""
    seconds: float
    """That the compilation took."""
    versions: str
    """Of JAX and of the compiler."""


def compile_plan(
    config: Config, topology: Topology, vocabulary: int, attention_flops_per_product: float
) -> Compiled:
    """Compiles the training step of a config for a topology.

    Args:
      config: valid.
      topology: the devices, which need not be there.
      vocabulary: the tokenizer's size.
      attention_flops_per_product: FLOPs of a device's attention in one layer, for each product of
        the scores' size.

    Raises:
      UserError: the compiler is not installed, fails, or takes too long.
    """
    require_compiler(topology)
    found = _in_process(config, topology, vocabulary)
    time = None
    if found["cycles"] and topology.chip is not None and topology.chip.clock is not None:
        filled = 1 / config.compute.expert_buffer if config.mesh.expert != 1 else 1.0
        grouped = grouped_seconds(topology.chip, found["grouped_flops"] * filled)
        time = StepTime(
            products=cycle_seconds(topology.chip, found["cycles"]) + grouped,
            grouped=grouped,
            attention=attention_seconds(
                topology.chip, found["attention_products"] * attention_flops_per_product
            ),
            memory=0.0,
            transfers=_transfers(found["collectives"], topology),
        )
    return Compiled(
        peak=found["peak"],
        memory=found["memory"],
        collectives=tuple(found["collectives"]),
        cycles=found["cycles"] or None,
        time=time,
        seconds=found["seconds"],
        versions=found["versions"],
    )


def require_compiler(topology: Topology) -> None:
    """Checks that the compiler of a topology is installed.

    Raises:
      UserError: it is not; names the extra.
    """
    if topology.platform in EXTRAS:
        package, extra = EXTRAS[topology.platform]
        if find_spec(package) is None:
            fix = f"pip install 'llmjax[{extra}]'; no device is needed"
            raise UserError("--compile", f"needs the compiler of {topology.kind}", fix)


def _transfers(rows: Sequence[Mapping[str, Any]], topology: Topology) -> tuple[Transfer, ...]:
    """The collectives, summed by kind, axes and whether something runs beside them."""
    assert topology.chip is not None
    sums: dict[tuple[str, str, bool], float] = defaultdict(float)
    for row in rows:
        sums[row["kind"], row["axes"], row["hidden"]] += row["wire_bytes"]
    found = []
    for (kind, axes, hidden), sent in sums.items():
        bandwidth = compiled_bandwidth(topology.chip, kind)
        found.append(Transfer(kind, axes, sent, bandwidth, hidden))
    return tuple(found)


def _in_process(config: Config, topology: Topology, vocabulary: int) -> dict[str, Any]:
    environment = dict(os.environ) | {
        "JAX_PLATFORMS": "cpu",  # the attached devices; the topology has its own
        "TPU_SKIP_MDS_QUERY": "1",  # the metadata of a machine that has TPUs
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        request, result = Path(folder, "request.json"), Path(folder, "result.json")
        devices = {"name": topology.name, "slices": topology.slices, "devices": topology.devices}
        fields = {"config": to_json(config), "vocabulary": vocabulary, **devices}
        request.write_text(json.dumps(fields), encoding="utf-8")
        command = [sys.executable, "-m", "llmjax.run.planning.child", str(request), str(result)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            fix = "make the model shallower, or plan without --compile"
            reason = f"the compiler needs more than {TIMEOUT // 60} minutes"
            raise UserError(f"--compile for {topology.name}", reason, fix) from error
        if done.returncode or not result.is_file():
            raise _failure(topology, done.stderr, done.returncode)
        found = parse_json(result.read_text(encoding="utf-8"), "the compiler's result")
        assert isinstance(found, dict)
        return found


def _failure(topology: Topology, stderr: str, code: int) -> UserError:
    """The last line of what the process said; a signal's number if it crashed."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    reason = lines[-1][:300] if lines and code > 0 else f"the compiler ended with code {code}"
    fix = "plan without --compile, or with another mesh or batch"
    return UserError(f"--compile for {topology.name}", reason, fix)
