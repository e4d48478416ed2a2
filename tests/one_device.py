"""Runs commands and code in a process with a single device, like a user's laptop.

Usage: python one_device.py STEPS.json, a list of {"command": [words]} and {"code": text}.
"""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path


def run(steps: list[dict], folder: Path, stdin: str = "") -> str:
    """Runs the steps in `folder` and returns what they print; an AssertionError names the one that
    failed."""
    path = folder / "steps.json"
    path.write_text(json.dumps({"steps": steps, "stdin": stdin}), encoding="utf-8")
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    here = Path(__file__)
    paths = [str(here.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(
        [sys.executable, str(here), str(path)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def _main(path: str) -> None:
    import jax

    from llmjax.cli.main import main

    assert jax.device_count() == 1
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    for step in request["steps"]:
        sys.stdin = io.StringIO(request["stdin"])
        if "code" in step:
            exec(compile(step["code"], "README.md", "exec"), {})
        elif main(step["command"]) != 0:
            sys.exit(f"failed: llmjax {shlex.join(step['command'])}")


if __name__ == "__main__":
    _main(sys.argv[1])
