"""docs/scaling.md is typed here as it stands; its runs are shown, and not trained."""

import re
import shlex
from pathlib import Path

import pytest

from llmjax.cli.main import main
from llmjax.scaling.coordinates import Coordinates

pytestmark = pytest.mark.documentation

PAGE = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
LISTINGS = "\n".join(re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
COORDINATES = [Coordinates(a, n, (1.0, 1.0, 1.0)) for a in ("width", "depth") for n in (1, 2)]
COMMANDS = [
    shlex.split(line.replace("CONFIG", "smoke"))[1:]
    for line in LISTINGS.replace("\\\n", "").splitlines()
    if line.startswith("llmjax ")
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_runs(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "--coordinates" in words:
        monkeypatch.setattr("llmjax.cli.scale.coordinate_check", lambda config: COORDINATES)
        assert main(words) == 0
        assert "coordinates.html" in capsys.readouterr().out
        return
    shown = "--print-config" if words[0] == "train" else "--dry-run"
    assert main([*words, shown] if shown not in words else words) == 0
    out = capsys.readouterr().out
    assert ("def config()" if words[0] == "train" else "to train: ") in out
    assert not list(tmp_path.iterdir())


def test_the_python_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "scaling.md", "exec"), {})
    out = capsys.readouterr().out
    assert "(" in out
