"""JSON Lines, parsed line by line within limits, and JSON that is valid UTF-8."""

import json
import os
import subprocess
import sys

import pytest

from llmjax.errors import UserError
from llmjax.storage.json_documents import JsonLimits, json_lines, json_text

SMALL = JsonLimits(size=40, marks=10, depth=3)


def test_good_lines_come_with_their_bytes_and_others_as_none(tmp_path):
    path = tmp_path / "lines"
    good = b'{"step": 1}\n'
    bad = [b'{"step": 2\n', b"\xff\n", b"[[[[]]]]\n", b"[" * 99 + b"\n", b"1," * 15 + b"\n"]
    long = b'"' + b"x" * 100 + b'"\n'
    path.write_bytes(b"\n \n".join([good, *bad, long, good]) + b'{"torn": ')
    lines = list(json_lines(path, limits=SMALL))
    assert lines[0] == lines[-2] == (good, {"step": 1})
    assert lines[1:-2] + lines[-1:] == [(b"", None)] * 7


@pytest.mark.parametrize("size", [38, 39, 40, 41, 42, 79, 80, 81, 82, 200])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_is_whole_or_none_whatever_its_length(tmp_path, size, end):
    line = b'"' + b"x" * (size - 2) + b'"' + end
    (tmp_path / "lines").write_bytes(b"1\n" + line)
    values = [value for _, value in json_lines(tmp_path / "lines", limits=SMALL)]
    assert values == [1, json.loads(line) if len(line) <= 40 else None]


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "none", "."):
        with pytest.raises(UserError):
            list(json_lines(tmp_path / name))


def test_a_line_of_gigabytes_takes_the_memory_of_the_limit(tmp_path):
    path = tmp_path / "lines"
    path.touch()
    os.truncate(path, 1 << 30)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "from llmjax.storage.json_documents import JsonLimits\n"
        "from llmjax.storage.json_documents import json_lines\n"
        "print(list(json_lines(sys.argv[1], limits=JsonLimits(size=1 << 20, marks=9))))"
    )
    words = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[(b'', None)]\n"), done.stderr[-300:]


def test_names_that_are_not_utf8_are_written_as_utf8_and_come_back():
    name = os.fsdecode(b"caf\xe9 \xf0\x9f\x99\x82.txt")
    for plain in (False, True):
        text = json_text({name: [name, 'a "quote" \\ud800']}, ascii_only=plain)
        assert json.loads(text.encode("utf-8")) == {name: [name, 'a "quote" \\ud800']}
    assert "🙂" in json_text(name)
    assert json_text(name, ascii_only=True).isascii()
