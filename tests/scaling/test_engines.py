"""Engines: rows run at the same time, their exit codes are told, and signals reach them."""

import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from llmjax.errors import STOPPED, Stopped, UserError
from llmjax.scaling.engines import local, ray_tasks, slurm
from llmjax.scaling.engines.engine import ENGINES, check_codes, log_file
from llmjax.scaling.engines.local import LocalEngine
from llmjax.scaling.engines.ray_tasks import RayEngine
from llmjax.scaling.engines.slurm import SlurmEngine

ROW = """
import signal, sys, time
name = sys.argv[-1]
print("row", name, flush=True)
if name == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    open(sys.argv[1] + "/ready", "w").close()
    time.sleep(30)
sys.exit(3 if name == "fails" else 0)
"""


@pytest.fixture(autouse=True)
def rows(tmp_path, monkeypatch):
    """Rows are small scripts instead of trainings."""
    script = tmp_path / "row.py"
    script.write_text(ROW)

    def command(folder: Path, row: str) -> list[str]:
        return [sys.executable, str(script), str(folder), row]

    for module in (local, slurm, ray_tasks):
        monkeypatch.setattr(module, "command", command)


def test_rows_of_this_machine_end_with_their_codes(tmp_path):
    ended = []
    names = ["one", "fails", "two"]
    codes = LocalEngine(jobs=2).run(tmp_path, names, lambda row, code: ended.append((row, code)))
    assert codes == [0, 3, 0]
    assert sorted(ended) == [(0, 0), (1, 3), (2, 0)]
    assert log_file(tmp_path, "two").read_text() == "row two\n"
    with pytest.raises(UserError, match="row fails: failed with exit code 3: row fails; see"):
        check_codes(tmp_path, names, codes)


def test_a_signal_reaches_the_rows_and_starts_no_more(tmp_path):
    def stop():
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    names = ["waits", "later"]
    codes = LocalEngine().run(tmp_path, names, lambda row, code: None)
    thread.join()
    assert codes == [STOPPED, STOPPED]
    assert not log_file(tmp_path, "later").exists()
    with pytest.raises(Stopped, match="start the same command again"):
        check_codes(tmp_path, names, codes)


SBATCH = """#!/usr/bin/env bash
# An array job, its tasks one after the other.
printf '%s\\n' "$@" > "$0.words"
script="${@: -1}"
for task in 0 1; do SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task bash "$script"; done
exit 1
"""


def test_slurm_gets_an_array_with_a_task_for_each_row(tmp_path, monkeypatch):
    programs = {"sbatch": SBATCH, "srun": '#!/usr/bin/env bash\nshift\nexec "$@"\n'}
    for name, text in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    engine = SlurmEngine(arguments=("--partition=p",), jobs=1, time="1:00:00")
    assert engine.run(tmp_path, ["one", "fails"], lambda row, code: None) == [0, 3]
    words = (tmp_path / "bin" / "sbatch.words").read_text().splitlines()
    assert {"--wait", "--requeue", "--array=0-1%1", "--time=1:00:00", "--partition=p"} <= set(words)
    assert log_file(tmp_path, "one").read_text() == "row one\n"


def test_a_cluster_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch is not on the PATH"):
        SlurmEngine().run(tmp_path, ["one"], lambda row, code: None)
    monkeypatch.setattr(ray_tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Ray is not installed; pip install 'llmjax\[ray\]'"):
        RayEngine().run(tmp_path, ["one"], lambda row, code: None)
    assert ray_tasks.train_row(str(tmp_path), "fails") == 3
    assert list(ENGINES) == ["local", "slurm", "ray"]
