from typing import Literal

import pytest
from toy_config import Adam, Muon, Toy

from llmjax.data.text.text_files import TextSource
from llmjax.run.config.build import ConfigError, build, plain
from llmjax.run.config.fields import article


def built(value):
    problems: list[str] = []
    return build(Toy, value, "", problems), problems


def test_plain_data_and_instances_build_the_same_value():
    toy = Toy(optimizer=Muon(), prompts=("a",))
    assert built(plain(toy)) == (toy, [])
    assert built(toy) == (toy, [])


def test_an_integer_serves_where_a_number_is_wanted_but_not_the_other_way_round():
    toy, problems = built(Toy(optimizer=Adam(learning_rate=1)))
    assert not problems
    assert isinstance(toy.optimizer.learning_rate, float)
    assert built(Toy(steps=1.0))[1] == ["steps: 1.0 is not an integer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "3"}, "steps: '3' is not an integer"),
        ({"steps": True}, "steps: True is not an integer"),
        ({"gated": 1}, "gated: 1 is not one of true|false"),
        ({"norm": "batch"}, "norm: 'batch' is not one of layer|rms"),
        ({"name": None}, "name: None is not text"),
        ({"prompts": "abc"}, "prompts: 'abc' is not a list: text ..."),
        ({"prompts": [1]}, "prompts: (1,) is not a list: text ..."),
        ({"stpes": 3}, "stpes: unknown; did you mean steps?"),
        (
            {"optimizer": {"kind": "moon"}},
            "optimizer: unknown kind 'moon'; choose one of adam, muon",
        ),
        ({"optimizer": {}}, "optimizer: has no kind; choose one of adam, muon"),
        ({"optimizer": 3}, "optimizer: 3 is not a section of fields"),
        ({"optimizer": {"kind": "adam", "clip": None}}, "optimizer.learning_rate: missing"),
    ],
)
def test_problems_name_the_field_and_the_value(changes, message):
    _, problems = built({**plain(Toy()), **changes})
    assert problems == [message]


def test_instances_of_the_wrong_class_are_refused_even_with_the_right_fields():
    assert built(Toy(optimizer=Toy()))[1] == ["optimizer: has the type Toy, not Adam or Muon"]
    assert built(Adam())[1] == ["config: has the type Adam, not Toy"]


def test_lists_of_dataclasses_name_the_item():
    data = plain(Toy())["data"] | {"sources": [plain(TextSource(("a",))) | {"weight": "heavy"}]}
    assert built({**plain(Toy()), "data": data})[1] == [
        "data.sources.0.weight: 'heavy' is not a number"
    ]


def test_types_in_a_sentence():
    assert article(int) == "an integer"
    assert article(float | None) == "a number or none"
    assert article(Literal["a", "b"] | None) == "one of a|b or none"
    assert article(tuple[str, ...]) == "a list: text ..."


def test_every_problem_is_found():
    assert len(built({**plain(Toy()), "steps": "x", "gated": 3, "what": 1})[1]) == 3


def test_an_error_of_several_problems_is_one_line_and_keeps_them_apart():
    error = ConfigError(["a: wrong\nhere", "b: wrong"])
    assert error.problems == ("a: wrong here", "b: wrong")
    assert str(error) == "config (2 problems): a: wrong here | b: wrong"
