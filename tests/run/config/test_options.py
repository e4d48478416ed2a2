"""Options that are spelled once: a dataclass beside a function, keywords for callers."""

import inspect
from dataclasses import dataclass

import pytest

from llmjax.errors import UserError
from llmjax.run.config.options import keyword_options, make_options


@dataclass(frozen=True)
class Loading:
    step: int | None = None
    """Which checkpoint."""


@dataclass(frozen=True)
class Echo(Loading):
    text: tuple[str, ...] = ()
    """What to say."""
    times: int = 1
    """How often."""


@keyword_options("text")
def echo(run: str, options: Echo, *, out: list[str] | None = None) -> Echo:
    if out is not None:
        out.append(run)
    return options


def test_the_signature_shows_each_field_with_its_type_and_default():
    signature = inspect.signature(echo)
    assert list(signature.parameters) == ["run", "text", "options", "times", "step", "out"]
    times, text = signature.parameters["times"], signature.parameters["text"]
    assert (times.kind, times.default, times.annotation) == (times.KEYWORD_ONLY, 1, int)
    assert (text.kind, text.default) == (text.POSITIONAL_OR_KEYWORD, ())
    assert signature.parameters["run"].default is inspect.Parameter.empty


def test_fields_come_by_position_by_keyword_or_all_at_once():
    assert echo("r", ["a", "b"], times=2) == Echo(text=("a", "b"), times=2)
    assert echo("r", text="a") == Echo(text=("a",))
    assert echo("r", options=Echo(times=3, step=4), step=5) == Echo(times=3, step=5)
    output: list[str] = []
    assert echo("r", out=output) == Echo()
    assert output == ["r"]


def test_options_of_a_related_class_share_their_fields():
    assert echo("r", options=Loading(step=2), times=2) == Echo(step=2, times=2)
    assert make_options(Loading, Echo(step=7, times=2), {}) == Loading(step=7)
    with pytest.raises(TypeError, match="options is a str, not a Echo"):
        echo("r", options="x")


def test_unknown_options_are_a_user_s_mistake():
    with pytest.raises(UserError, match=r"echo\(tims=...\): no such option; did you mean times\?"):
        echo("r", tims=2)
    with pytest.raises(TypeError, match="missing a required argument: 'run'"):
        echo(times=2)
