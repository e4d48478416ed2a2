"""The tests that need a GPU (tests/gpu), counted.

Command: python -m benchmarks.gpu.run_tests
"""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.measuring import Row, emit, parser_of

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser_of(__doc__).parse_args()
    environment = dict(os.environ)
    # tests/conftest.py sets what is not set: CPUs, and no optimization.
    environment["XLA_FLAGS"] = " ".join(
        [environment.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=3"]
    ).strip()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "tests/gpu"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    lines = (done.stdout + done.stderr).splitlines()
    sys.stderr.write(done.stdout + done.stderr)
    if done.returncode not in (0, 1):  # 1: tests failed
        raise SystemExit(lines[-1] if lines else f"pytest exits with {done.returncode}")
    summary = done.stdout.splitlines()[-1]
    counts = {word: _count(summary, word) for word in ("passed", "failed", "error", "skipped")}
    text = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    failed = [line.removeprefix("FAILED ") for line in lines if line.startswith("FAILED ")]
    emit(Row("tests/gpu", None, "tests", None, note="; ".join([text, *failed])))


def _count(summary: str, word: str) -> int:
    """The number before a word in pytest's last line, such as "3 passed, 1 skipped in 2.1s"."""
    parts = summary.replace(",", "").replace("errors", "error").split()
    return int(parts[parts.index(word) - 1]) if word in parts else 0


if __name__ == "__main__":
    main()
