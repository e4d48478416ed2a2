import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from command import process, replace_run, run, stub

from llmjax.cli.main import main
from llmjax.cli.registry import COMMANDS
from llmjax.errors import Stopped, UserError
from llmjax.parallel.memory import FEWER


def test_help_lists_the_commands_and_starts_nothing():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = process("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    for name, entry in COMMANDS.items():
        assert any(line.split(maxsplit=1)[:1] == [name] for line in result.stdout.splitlines())
        assert entry.summary in result.stdout
    assert after.ru_utime - before.ru_utime < 0.5


def test_help_does_not_import_jax():
    code = (
        "import sys\n"
        "from llmjax.cli.main import main\n"
        "main(['--help'])\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_no_words_is_a_mistake_that_shows_the_commands(capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert any("train" in line for line in err)


def test_version(capsys):
    from llmjax import __version__

    assert run(capsys, "--version") == (0, f"llmjax {__version__}\n", [])


def test_internal_errors_exit_with_1_and_say_what_to_report(capsys, monkeypatch):
    def report(run, options):
        raise ZeroDivisionError("by\nzero")

    stub(monkeypatch, "report", report)
    code, out, err = run(capsys, "report", "x")
    assert (code, out) == (1, "")
    assert err == [
        "llmjax: internal error: ZeroDivisionError: by zero; please report the traceback that "
        "--debug shows to the developers of llmjax"
    ]
    code, _, err = run(capsys, "report", "x", "--debug")
    assert code == 1
    assert any("Traceback" in line for line in err)
    assert err[-1].endswith("please report this traceback to the developers of llmjax")


def test_debug_shows_where_a_mistake_was_found(capsys, monkeypatch):
    def report(run, options):
        raise UserError("x", "wrong", "fix it")

    stub(monkeypatch, "report", report)
    code, _, err = run(capsys, "report", "x", "--debug")
    assert code == 2
    assert any("Traceback" in line for line in err)
    assert err[-1] == "llmjax: error: x: wrong; fix it"


def test_interrupts_are_one_line(capsys, monkeypatch):
    def report(run, options):
        raise KeyboardInterrupt

    stub(monkeypatch, "report", report)
    assert run(capsys, "report", "x") == (130, "", ["llmjax: interrupted"])


def test_the_log_is_plain_lines_on_stderr(capsys, monkeypatch):
    def report(run, options):
        logging.getLogger("llmjax.somewhere").warning("all %d steps are done", 3)
        return "a path"

    stub(monkeypatch, "report", report)
    assert run(capsys, "report", "x") == (0, "a path\n", ["llmjax: all 3 steps are done"])
    assert logging.getLogger("llmjax").propagate


def test_a_training_stopped_by_a_signal_exits_with_75(capsys, monkeypatch, tmp_path):
    def train(config, program):
        raise Stopped(7, "SIGTERM")

    stub(monkeypatch, "train", train)
    code, out, err = run(capsys, "train", "smoke", "--run-dir", str(tmp_path))
    assert (code, out) == (75, "")
    assert err == ["llmjax: SIGTERM: saved step 7; start the same command again to resume"]


def test_a_reader_that_leaves_is_no_fault():
    command = f"{sys.executable} -m llmjax generate --help | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_module_is_the_command():
    result = process("evalute", "x")
    assert result.returncode == 2
    assert result.stderr == "llmjax: error: evalute: no such command; did you mean evaluate?\n"
    assert os.path.basename(sys.executable) not in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes."),
    ],
)
def test_no_memory_is_a_line_about_sizes(capsys, monkeypatch, error):
    def report(run, options):
        raise error

    stub(monkeypatch, "report", report)
    code, out, err = run(capsys, "report", "x")
    assert (code, out, len(err)) == (2, "", 1)
    assert "memory" in err[0]
    assert err[0].endswith(FEWER)


def test_where_stderr_is_closed_no_file_of_ours_gets_its_number(tmp_path):
    program = (
        "import sys; from llmjax.cli.main import main; main(['--version']); "
        f"print(open({str(tmp_path / 'file')!r}, 'w').fileno() > 2, main(['nonsense']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.close(2),
    )
    assert result.stdout.splitlines()[-1] == "True 2"


def test_the_exit_code_counts_where_nobody_reads_stderr(monkeypatch):
    class Gone:
        def write(self, _):
            raise BrokenPipeError

        flush = write

    def stopped(_):
        raise Stopped(7, "SIGTERM")

    replace_run(monkeypatch, "report", stopped)
    monkeypatch.setattr(sys, "stderr", Gone())
    assert main(["report", "x"]) == 75
