"""docs/search.md is typed here as it stands, with models that nobody trained."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from llmjax.cli.main import main
from llmjax.retrieval.document import READERS
from task_runs import DECODER, ENCODER, begun

pytestmark = pytest.mark.documentation

PAGE = (Path(__file__).parents[1] / "docs" / "search.md").read_text(encoding="utf-8")
MODELS = {"sample:minilm": ENCODER, "sample:smollm2-135m": replace(DECODER, max_length=1024)}


def test_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (listing,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for name, text in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", listing, re.DOTALL | re.M):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    said = []
    for line in re.findall(r"^llmjax (.*)$", listing, re.MULTILINE):
        words = shlex.split(line)
        if words[0] == "import":
            begun(words[2], MODELS[words[1]])
            continue
        capsys.readouterr()
        assert main(words) == 0
        said.append(capsys.readouterr().out)
    indexed, found, answered = said
    assert indexed.startswith("manual.db: 2 documents, ")
    assert re.search(r"^\[1\] \S+manual/(dogs\.txt|tickets\.md):\d+", found)
    assert len(re.findall(r"^\[\d\] \S+manual/\S+:\d+", answered, re.MULTILINE)) == 3
    assert main(["search", "manual.db", "a child", "--json", "--mode", "lexical"]) == 0
    assert '"source":' in capsys.readouterr().out
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/search.md", "exec"), {})
    assert "dogs.txt:" in capsys.readouterr().out


def test_every_suffix_is_in_the_table():
    (table,) = re.findall(r"^\| suffix .*?\n\n", PAGE, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(\.\w+)`", table)) == set(READERS)
