"""The worst predictions first, in whatever form the answers come."""

import pytest

from llmjax.tasks.config import AnswerTask
from llmjax.tasks.mistakes import mistakes
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
    told = [{"answer": "in Oslo"}, {"answer": "born in"}]
    (miss,) = mistakes(AnswerTask(), rows, told)
    assert (miss.place, miss.text) == ("table line 2", "Where?")
    assert (miss.truth, miss.told) == ("Oslo | in Oslo", "born in")
    assert miss.cost == pytest.approx(0.5)


@pytest.mark.parametrize("nothing", [{"text": [], "answer_start": []}, []])
def test_answers_where_there_is_none(nothing):
    rows = rows_of({**ASKED, "answers": nothing}, {**ASKED, "answers": nothing})
    (miss,) = mistakes(AnswerTask(), rows, [{"answer": ""}, {"answer": "Oslo"}])
    assert (miss.truth, miss.told, miss.cost) == ("(none)", "Oslo", 1)
