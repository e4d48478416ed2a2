"""Task metadata stored with a run: read back, or rejected in one line."""

import pytest

from llmjax.errors import UserError
from llmjax.tasks.metadata import TaskMetadata, metadata_json, read_metadata

NAMES = ["classification"]


def test_facts_are_read_back(tmp_path):
    facts = TaskMetadata(labels=("--1", "é", "01"), counts=(1, 2, 3))
    path = tmp_path / "tasks.json"
    path.write_text(metadata_json({"classification": facts}), encoding="utf-8")
    assert read_metadata(path, NAMES) == [facts]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "[" * 10**6, '{"classification": []}', '{"classification": {"a": 1}}'],
)
def test_damaged_facts_are_one_line(tmp_path, content):
    path = tmp_path / "tasks.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"tasks\.json: .*; restore it from a copy"):
        read_metadata(path, NAMES)
    with pytest.raises(UserError, match=r"absent\.json: cannot be read"):
        read_metadata(tmp_path / "absent.json", NAMES)
