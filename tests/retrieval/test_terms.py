"""Terms of texts in many scripts."""

import pytest

from llmjax.retrieval.terms import MAX_QUERY_TERMS, query_terms, terms

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Café's 3.5 KG", "the cafe s 3 5 kg"),
        ("snake_case x-ray", "snake case x ray"),
        ("Straße ΟΔΟΣ", "strasse οδοσ"),
        ("हिन्दी में", "हिन्दी में"),
        ("東京都に", "東京 京都 都に"),
        ("水", "水"),
        ("iPhone东京5", "iphone 东京 5"),
        ('" OR * NEAR(', "or near"),
        ("", ""),
    ],
)
def test_terms(text, expected):
    assert terms(text) == expected.split()


def test_questions_are_bounded():
    assert query_terms("a b a") == ["a", "b"]
    assert len(query_terms(" ".join(map(str, range(1000))))) == MAX_QUERY_TERMS
