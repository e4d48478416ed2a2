"""docs/models.md matches the code."""

import re
from pathlib import Path

from llmjax.convert.families.registry import FAMILIES
from llmjax.convert.sources import SAMPLES

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")


def test_every_model_type_is_listed_and_no_other():
    rows = [line for line in PAGE.splitlines() if re.match(r"\| (de|en)coders|\| encoder-", line)]
    assert set(re.findall(r"`([\w-]+)`", " ".join(rows))) == set(FAMILIES)


def test_every_sample_is_listed():
    assert set(re.findall(r"`sample:([\w-]+)`", PAGE)) == set(SAMPLES)


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/models.md", "exec"), {})
    assert capsys.readouterr().out == "(2, 384)\n"


def test_families_are_registered_under_their_model_type():
    assert all(family.model_type == name for name, family in FAMILIES.items())
