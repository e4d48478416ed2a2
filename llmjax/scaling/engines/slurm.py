"""Rows as an array job of a SLURM cluster."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmjax.errors import UserError
from llmjax.scaling.engines.engine import Done, Engine, command, log_file

SCRIPT = """#!/usr/bin/env bash
# Made by `llmjax scale`. A task trains one row; SIGTERM lets it save, and it is requeued.
set -uo pipefail
rows=({rows})
row=${{rows[$SLURM_ARRAY_TASK_ID]}}
{setup}
srun --ntasks=1 {command} "$row" >> {logs}/"$row".log 2>&1
code=$?
if ((code == 75 || code == 76)); then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
echo "$code" > {logs}/"$row".code
exit "$code"
"""


@dataclass(frozen=True)
class SlurmEngine(Engine):
    """An array job of a SLURM cluster, a task for each row. The command runs on a login node and
    waits. Python, the cache and the ladder's folder must lie where all nodes find them."""

    arguments: tuple[str, ...] = ()
    """Further arguments of sbatch, such as --partition=gpu and --gpus-per-task=1."""
    time: str = "24:00:00"
    """Time limit of a row; one that reaches it saves and is queued again."""
    jobs: int = 0
    """Rows at a time. 0: as many as there is room for."""
    setup: str = ""
    """Shell command before each row."""
    kind: Literal["slurm"] = "slurm"

    def run(self, folder: Path, rows: Sequence[str], done: Done) -> list[int]:
        if shutil.which("sbatch") is None:
            fix = "run the command on a login node of the cluster"
            raise UserError("--engine slurm", "sbatch is not on the PATH", fix)
        script = self._script(folder, rows)
        codes = [log_file(folder, row).with_suffix(".code") for row in rows]
        for path in codes:
            path.unlink(missing_ok=True)
        limit = f"%{self.jobs}" if self.jobs else ""
        words = ["sbatch", "--wait", "--requeue", "--signal=TERM@120", "--open-mode=append"]
        words += [f"--time={self.time}", f"--array=0-{len(rows) - 1}{limit}", "--job-name=llmjax"]
        words += [f"--output={script.parent}/slurm-%a.out", *self.arguments, str(script)]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        if not any(path.is_file() for path in codes):
            reason = " ".join((result.stderr or result.stdout or "no row was started").split())
            raise UserError("--engine slurm: sbatch", reason[:300], "see --engine.arguments")
        found = [_code(path) for path in codes]
        for index, code in enumerate(found):
            done(index, code)
        return found

    def _script(self, folder: Path, rows: Sequence[str]) -> Path:
        logs = log_file(folder, rows[0]).parent
        words = command(folder, "")[:-1]
        text = SCRIPT.format(
            rows=" ".join(map(shlex.quote, rows)),
            setup=self.setup or ":",
            command=shlex.join(words),
            logs=shlex.quote(str(logs.absolute())),
        )
        try:
            logs.mkdir(parents=True, exist_ok=True)
            path = logs / "array.sh"
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(logs, f"cannot be written: {error.strerror or error}") from error
        return path.absolute()


def _code(path: Path) -> int:
    """The exit code that a task wrote; 1 if it was killed before."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 1
