"""Mistakes are sorted by cost, for every form of answers."""

import pytest

from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.predict import worst_mistakes
from task_models import rows_of

CONTEXT = "She was born in Oslo in 1910."
ASKED = {"question": "Where?", "context": CONTEXT}


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Oslo", "in Oslo"], "answer_start": [16, 13]},
        [{"text": "Oslo", "answer_start": 16}, {"text": "in Oslo", "answer_start": 13}],
    ],
    ids=["lists", "objects"],
)
def test_answers_that_miss(answers):
    rows = rows_of({**ASKED, "answers": answers}, {**ASKED, "answers": answers})
    predictions = [{"answer": "in Oslo"}, {"answer": "born in"}]
    (miss,) = worst_mistakes(ExtractiveQATask(), rows, predictions)
    assert (miss["place"], miss["text"]) == ("table line 2", "Where?")
    assert (miss["truth"], miss["predicted"]) == ("Oslo | in Oslo", "born in")
    assert miss["cost"] == pytest.approx(0.5)


@pytest.mark.parametrize("nothing", [{"text": [], "answer_start": []}, []])
def test_answers_where_there_is_none(nothing):
    rows = rows_of({**ASKED, "answers": nothing}, {**ASKED, "answers": nothing})
    (miss,) = worst_mistakes(ExtractiveQATask(), rows, [{"answer": ""}, {"answer": "Oslo"}])
    assert (miss["truth"], miss["predicted"], miss["cost"]) == ("(none)", "Oslo", 1)
