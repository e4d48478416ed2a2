"""docs/translate.md is typed here as it stands, with a model that nobody trained."""

import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from llmjax.cli.main import main
from llmjax.tasks.sequence import SequenceTask
from llmjax.translation.document import FORMATS
from task_runs import ENCODER_DECODER, tasked

pytestmark = pytest.mark.documentation

PAGE = (Path(__file__).parents[1] / "docs" / "translate.md").read_text(encoding="utf-8")
ROWS = [{"source": "one", "target": "eins"}, {"source": "two", "target": "zwei"}]


def test_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    run = tasked(tmp_path / "made", SequenceTask(max_new_tokens=4), ROWS, ENCODER_DECODER)
    Path("runs").mkdir()
    Path("runs/translate").symlink_to(run.folder)
    listing, code = re.findall(r"```(?:bash|python)\n(.*?)```", PAGE, re.DOTALL)
    for name, text in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", listing, re.DOTALL | re.M):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    for typed, line in re.findall(r"^(echo .* \| )?llmjax (.*)$", listing, re.MULTILINE):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed[6:-4]))
        assert main(shlex.split(line)) == 0
    out = capsys.readouterr().out
    assert out.count("letters/notice.de.md: 9 texts, ") == 2
    translated = Path("letters/notice.de.md").read_text().split("\n")
    assert translated[0].startswith("# ")
    assert "`platform 7`" in translated[2]
    assert translated[5] == "| --- | --- |"
    exec(compile(code, "docs/translate.md", "exec"), {})
    assert capsys.readouterr().out == "2\n"


def test_every_suffix_is_in_the_table():
    (table,) = re.findall(r"^\| suffix .*?\n\n", PAGE, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(\.\w+)`", table)) == set(FORMATS)
