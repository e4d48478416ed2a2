import json

import pytest

from llmjax.errors import UserError
from llmjax.storage.seals import SEAL, sealed, unsealed

DOCUMENT = {"b": [1, 2.5, None], "a": {"é": True}}


def test_an_object_comes_back_without_its_checksum():
    text = json.dumps(sealed(DOCUMENT), indent=3, ensure_ascii=False)
    assert unsealed(json.loads(text), "x") == DOCUMENT
    assert sealed(sealed(DOCUMENT)) == sealed(DOCUMENT)


def test_one_without_a_checksum_is_taken_as_it_is():
    assert unsealed(DOCUMENT, "x") == DOCUMENT


@pytest.mark.parametrize(
    "change", [{"b": [1, 2.5, 0]}, {"new": 1}, {SEAL: None}, {"a": {"é": 1}}, {"a": {"e": True}}]
)
def test_any_other_value_is_refused(change):
    with pytest.raises(UserError, match=f'x: was changed .* remove "{SEAL}"'):
        unsealed(sealed(DOCUMENT) | change, "x")
