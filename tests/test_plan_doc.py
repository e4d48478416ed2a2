"""docs/plan.md is typed here as it stands, with smaller models."""

import re
import shlex
from pathlib import Path

import pytest

from llmjax.cli.main import main

pytestmark = pytest.mark.documentation

PAGE = (Path(__file__).parents[1] / "docs" / "plan.md").read_text(encoding="utf-8")
LISTINGS = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [shlex.split(line)[1:] for line in LISTINGS.splitlines() if line.startswith("llmjax ")]
SMALL = (
    "--model.vocab-size 512 --model.d-model 256 --model.num-heads 4 --model.num-kv-heads none "
    "--model.d-ff 64 --model.num-decoder-layers 1 --data.length 128 --data.batch-size 512"
).split()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_runs(words, capsys, monkeypatch):
    if "--compile" in words and "cpu" not in words:
        monkeypatch.setattr("llmjax.run.planning.compiled.find_spec", lambda name: None)
        assert main([*words, *SMALL]) == 2
        assert "llmjax[plan-tpu]" in capsys.readouterr().err
        return
    if "--compile" in words:
        words = [word for word in words if word != "--compile"]  # tested with the command
    assert main([*words, *SMALL]) == 0
    out = capsys.readouterr().out
    assert ("options of train" if "--search" in words else "fits: ") in out


def test_the_output_that_is_shown_has_the_lines_of_a_plan(capsys):
    shown = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]
    assert main([*COMMANDS[0], *SMALL]) == 0
    out = capsys.readouterr().out
    for line in shown.splitlines():
        label = re.split(r"  +\S", line.strip())[0].split(",")[0]
        if label not in ("...", "") and not re.match(r"v5e|\d|fits", label):
            assert label in out, label
