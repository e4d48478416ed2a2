"""Standard streams that are closed, full, gone or of another encoding: a line, or it works."""

import io
import json
import os
import subprocess
import sys

import pytest
from command import run, stub

from llmjax.cli import streams
from llmjax.compression.archive import ArchiveWriter
from llmjax.errors import UserError

NO_SPACE = "llmjax: error: standard output: No space left on device\n"


def shell(line: str, *words: object, **options) -> subprocess.CompletedProcess:
    """Runs a line of bash, where llmjax is the command and $1, $2 ... are the words."""
    script = f'llmjax() {{ "{sys.executable}" -m llmjax "$@"; }}\n{line}'
    words = ["bash", "-c", script, "bash", *map(str, words)]
    return subprocess.run(words, capture_output=True, **options)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive of a folder with names beyond ASCII, beyond Unicode's first plane, and of bytes
    that are not UTF-8."""
    path = tmp_path_factory.mktemp("archive") / "a"
    names = ["café", "你好 🙂", os.fsdecode(b"byte \xff"), "line\nbreak"]
    header = {"size": 0, "files": [[name, 0o644, 0, 0] for name in sorted(names)]}
    with open(path, "wb") as file:
        ArchiveWriter(file, header).close()
    return path


@pytest.mark.once
@pytest.mark.parametrize(
    "command",
    ["llmjax --help", "PYTHONUNBUFFERED=1 llmjax train --help", "llmjax inspect $1 --json"],
)
def test_a_full_stdout_is_one_line(archive, command):
    result = shell(f"{command} > /dev/full", archive)
    assert (result.returncode, result.stderr.decode()) == (2, NO_SPACE)


@pytest.mark.once
def test_a_full_stdout_and_a_mistake_are_one_line_as_well():
    code = (
        "import sys\n"
        "from llmjax.cli.main import main\n"
        "from llmjax.errors import UserError\n"
        "import llmjax.cli.report as module\n"
        "def report(run, options):\n"
        "    print('x' * int(sys.argv[1]))\n"
        "    raise UserError('x', 'wrong')\n"
        "module.report = report\n"
        "sys.exit(main(['report', 'x']))"
    )
    for size, message in ((1, "llmjax: error: x: wrong\n"), (100_000, NO_SPACE)):
        command = f"env -u PYTHONUNBUFFERED {sys.executable}"
        result = shell(f'{command} -c "$1" {size} > /dev/full', code)
        assert (result.returncode, result.stderr.decode()) == (2, message)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_closed_streams_are_no_fault(archive, closed):
    result = shell(f"llmjax inspect $1 {closed}", archive)
    assert (result.returncode, result.stderr) == (0, b"")
    assert bool(result.stdout) == (not closed.startswith(">"))


@pytest.mark.parametrize("closed", [">&- 2>&-", "2>/dev/full"])
def test_mistakes_keep_their_code_where_nobody_can_be_told(closed):
    assert shell(f"llmjax inspect nothing {closed}").returncode == 2


def test_descriptors_of_closed_streams_are_not_given_to_files(tmp_path):
    """Or what a library prints would land in a file of ours."""
    code = (
        "import os, sys\n"
        "from llmjax.cli.streams import hold_standard_streams as hold\n"
        "hold()\n"
        "file = open(sys.argv[1], 'w')\n"
        "os.write(1, b'a'), os.write(2, b'b')\n"
        "file.write(str(file.fileno() > 2))"
    )
    shell(f'{sys.executable} -c "$1" $2 <&- >&- 2>&-', code, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "True"


def test_readers_that_leave_are_no_fault(archive):
    for command in ("train --help", "inspect $1"):
        result = shell(f"llmjax {command} | true; exit ${{PIPESTATUS[0]}}", archive)
        assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "utf-8:surrogateescape"])
def test_what_an_encoding_lacks_is_escaped(archive, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    codec = encoding.partition(":")[0]
    result = shell("llmjax inspect $1", archive, env=environment)
    assert (result.returncode, result.stderr) == (0, b"")
    output = result.stdout.decode(codec)
    assert ("café" in output) == (codec != "ascii")
    assert r"byte \xff" in output
    assert r"line\nbreak" in output
    assert ("你好 🙂" in output) == codec.startswith("utf")
    result = shell("llmjax inspect $1 --json", archive, env=environment)
    names = [name for name, *_ in json.loads(result.stdout.decode(codec))["files"]]
    assert names == sorted(["café", "你好 🙂", "byte \udcff", "line\nbreak"])


def test_the_plain_locale(archive):
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    for more in ({"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        result = shell("llmjax inspect $1", archive, env=environment | more)
        assert (result.returncode, result.stderr) == (0, b"")
        assert rb"byte \xff" in result.stdout


def test_input_that_is_closed_or_binary():
    result = shell("llmjax inspect - <&-")
    message = "llmjax: error: standard input: is closed; connect it, or name a file\n"
    assert (result.returncode, result.stderr.decode()) == (2, message)
    result = shell("llmjax inspect - < $1", sys.executable)
    assert result.returncode == 2
    assert b"is not an llmjax archive" in result.stderr


def test_an_archive_for_a_closed_stdout_is_refused():
    result = shell("llmjax decompress nothing $1 - >&-", "nothing")
    assert (result.returncode, result.stderr.decode()) == (
        2,
        "llmjax: error: standard output: is closed; name a file\n",
    )


def test_a_file_size_limit_is_one_line_and_leaves_nothing(tmp_path):
    """The kernel's signal is ignored by Python, so that writing fails."""
    result = shell("ulimit -f 0; llmjax train smoke --run-dir $1", tmp_path / "run")
    assert result.returncode == 2
    assert result.stderr.startswith(b"llmjax: error: ")
    assert b"File too large" in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert {path.name for path in tmp_path.rglob("*")} <= {"run", ".lock"}


class Panic(BaseException):
    """What pyo3 raises where Rust panics is no Exception."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Panic("index out\nof bounds"), 1, "internal error: Panic: index out of bounds; please"),
        (
            RecursionError("maximum depth"),
            1,
            "internal error: RecursionError: maximum depth; please",
        ),
        (MemoryError(), 2, "error: this machine's memory: there is not enough; "),
        (OSError(28, "No space left on device", "/a/b"), 2, "error: /a/b: No space left on device"),
        (OSError(27, "File too large"), 2, "error: a file: File too large"),
        (UserError("a\udcff\x1b[2J", "wrong"), 2, r"error: a\xff\x1b[2J: wrong"),
    ],
)
def test_whatever_is_raised_ends_in_one_line(capsys, monkeypatch, error, code, message):
    def report(run, options):
        raise error

    stub(monkeypatch, "report", report)
    exit_code, out, err = run(capsys, "report", "x")
    assert (exit_code, out) == (code, "")
    assert len(err) == 1
    assert err[0].startswith(f"llmjax: {message}")


def test_exits_pass(monkeypatch):
    def report(run, options):
        raise SystemExit(3)

    stub(monkeypatch, "report", report)
    from llmjax.cli.main import main

    with pytest.raises(SystemExit):
        main(["report", "x"])


def test_streams_that_are_not_the_process_s_own_stay(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    streams.hold_standard_streams()
    assert sys.stdout is stream


def test_messages_on_standard_input_are_bounded_and_utf8(monkeypatch):
    from llmjax.cli import chat

    for data, message in (
        (b"x" * 3_000_000, "a line of more than"),
        (b"ok\n\xff\n", "is not utf-8"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        with pytest.raises(UserError, match=message):
            list(chat.read_messages())
