import json

import pytest

from llmjax.errors import UserError
from llmjax.storage.checksums import CHECKSUM, check_checksum, with_checksum

DOCUMENT = {"b": [1, 2.5, None], "a": {"é": True}}


def test_an_object_comes_back_without_its_checksum():
    text = json.dumps(with_checksum(DOCUMENT), indent=3, ensure_ascii=False)
    assert check_checksum(json.loads(text), "x") == DOCUMENT
    assert with_checksum(with_checksum(DOCUMENT)) == with_checksum(DOCUMENT)


def test_one_without_a_checksum_is_taken_as_it_is():
    assert check_checksum(DOCUMENT, "x") == DOCUMENT


@pytest.mark.parametrize(
    "change",
    [{"b": [1, 2.5, 0]}, {"new": 1}, {CHECKSUM: None}, {"a": {"é": 1}}, {"a": {"e": True}}],
)
def test_any_other_value_is_refused(change):
    with pytest.raises(UserError, match=f'x: was changed .* remove "{CHECKSUM}"'):
        check_checksum(with_checksum(DOCUMENT) | change, "x")
