"""The examples of docs/library.md, run in their order."""

import re
from pathlib import Path

import jax
import pytest

from runs import write_text

pytestmark = pytest.mark.documentation

DOCS = Path(__file__).parents[1] / "docs" / "library.md"
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:```\n(.*?)```)?", DOCS.read_text("utf-8"), re.DOTALL)


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    write_text(tmp_path / "my.txt", sentences=4000)
    names = {}
    assert len(BLOCKS) >= 10
    for code, expected in BLOCKS:
        capsys.readouterr()
        exec(compile(code, str(DOCS), "exec"), names)
        if expected:
            assert capsys.readouterr().out == expected
    assert names["sharded"].mesh.devices.size == jax.device_count()


def test_every_field_of_decoding_is_in_the_table():
    from llmjax import DecodingConfig

    table = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| `")]
    for name, field in DecodingConfig.__dataclass_fields__.items():
        (row,) = [line for line in table if f"`{name}`" in line.split("|")[1]]
        names = re.findall(r"`(\w+)`", row.split("|")[1])
        values = [value.strip() for value in row.split("|")[2].split(",")]
        shown = dict(zip(names, values * len(names), strict=False))[name]
        expected = {None: "off", (): "none"}.get(field.default, str(field.default))
        assert shown == expected, name


def test_mistakes_are_user_errors():
    import llmjax

    with pytest.raises(llmjax.UserError):
        llmjax.load("no/such/run")
    with pytest.raises(llmjax.UserError, match=r"'smoke' is not an llmjax\.Config"):
        llmjax.train("smoke")
