"""docs/api.md: the Python reference leaves no public name out."""

import re
from pathlib import Path

import llmjax

PAGE = Path(__file__).parent.parent / "docs" / "api.md"


def test_every_public_name_is_there_once_by_its_kind():
    directives = re.findall(r"^\.\. auto(class|function):: (\w+)$", PAGE.read_text(), re.M)
    names = [name for _, name in directives]
    assert sorted(names) == sorted(set(llmjax.__all__) - {"__version__"})
    for kind, name in directives:
        assert isinstance(getattr(llmjax, name), type) == (kind == "class"), name
