"""The environment of a run, kept in RUN/environment.json: versions, machine, devices, command.

    {"model": {...}, "data": {...},
     "sessions": [{"started": ..., "command": ..., "versions": {...}, ...}, ...]}

Each start appends a session, as a run may resume on another machine.
"""

import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.json_documents import read_json
from llmjax.storage.writing import write_atomically

PACKAGES = (
    "llmjax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "sentencepiece",
    "tokenizers",
    "numpy",
)


def session() -> dict[str, Any]:
    """This process's environment as plain data. Starts JAX's devices.

    It contains neither host nor user name, but the command with the paths in it.
    """
    import jax  # here, so that the report can read records without starting JAX

    device = jax.devices()[0]
    return {
        "started": time.time(),
        "command": command(),
        "git_commit": git_commit(Path(__file__).parents[1]),
        "versions": {"python": platform.python_version()} | _versions(),
        "machine": {
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "processor": _processor(),
            "cores": cores(),
            "memory_bytes": memory(),
        },
        "devices": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
    }


def record(path: Path, *, model: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Appends this session to the file at `path`, and replaces the counts.

    Call it in one process of a run. An unreadable file is replaced, as no result depends on it.

    Args:
      path: RUN/environment.json.
      model: counts, such as "parameters", "vocab_size", "flops_per_token" (forward and backward).
      data: counts of documents, bytes and tokens, such as "train_documents", "heldout_bytes".
    """
    earlier = read(path).get("sessions", [])
    sessions = [*(earlier if isinstance(earlier, list) else []), session()]
    document = {"model": dict(model), "data": dict(data), "sessions": sessions}
    write_atomically(path, json.dumps(document, indent=2) + "\n")


def read(path: Path) -> dict[str, Any]:
    """What `record` stored; {} if the file is missing or not a JSON object."""
    try:
        document = read_json(path)
    except UserError:
        return {}
    return document if isinstance(document, dict) else {}


def command() -> str:
    """The command line of this process, quoted for a shell."""
    name = Path(sys.argv[0]).name
    if name == "__main__.py":
        name = f"python -m {Path(sys.argv[0]).parent.name}"
        return " ".join([name, *map(shlex.quote, sys.argv[1:])])
    return shlex.join([name or "python", *sys.argv[1:]])


def git_commit(folder: Path) -> str | None:
    """The commit of a package's folder, with "+" if it has changes; None if git does not track it,
    as with a package installed in a virtual environment inside a repository."""
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
        return _git(folder, "rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    process = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return process.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _processor() -> str:
    """The processor's marketing name on Linux, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def cores() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int | None:
    """Bytes of main memory; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
