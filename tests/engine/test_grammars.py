"""Structured output: whatever a model without training prefers, its texts match."""

import json
import re
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.decoding.config import DecodingConfig
from llmjax.engine.config import EngineConfig, RequestOptions
from llmjax.engine.engine import Engine
from llmjax.engine.grammars import Choice, GrammarCompiler, JsonSchema, Lark, Regex
from llmjax.errors import UserError
from untrained import in_hand

CONFIG = EngineConfig(max_rows=4, prefill_chunk=16, fixed_shape=True)
SAMPLED = DecodingConfig(max_new_tokens=48, temperature=1.5, seed=3)


@pytest.fixture(scope="module")
def lm():
    return in_hand(num_decoder_layers=1)


@pytest.fixture(scope="module")
def engine(lm):
    return Engine(lm.model, lm.params, lm.tokenizer, CONFIG)


def complete(engine, grammar, **changes):
    """The completions of one request."""
    options = RequestOptions(replace(SAMPLED, **changes), grammar=grammar)
    ids = engine.submit("ab", options)
    done = {out.id: out.completion for out in engine.run() if out.completion is not None}
    return [done[id] for id in ids]


BOUNDED = st.recursive(
    st.sampled_from(
        [
            {"type": "integer", "minimum": -9, "maximum": 99},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["red", "green", 3]},
            {"type": "string", "maxLength": 2},
        ]
    ),
    lambda inner: (
        st.dictionaries(st.sampled_from("ab"), inner, min_size=1, max_size=2).map(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields),
                "additionalProperties": False,
            }
        )
        | inner.map(lambda item: {"type": "array", "items": item, "maxItems": 2})
    ),
    max_leaves=3,
)


@settings(max_examples=12, deadline=None)
@given(schema=BOUNDED, seed=st.integers(0, 2**31))
def test_texts_are_valid_under_a_schema(engine, schema, seed):
    (completion,) = complete(engine, JsonSchema(json.dumps(schema)), seed=seed)
    if completion.finish == "eos":
        jsonschema.validate(json.loads(completion.text), schema)
    else:
        assert completion.finish == "length"


@pytest.mark.parametrize("seed", range(3))
def test_samples_match_an_expression_each_on_its_own(engine, seed):
    pattern = "[a-c]{2,4}-(0|[1-9][0-9]?)"
    completions = complete(engine, Regex(pattern), samples=3, seed=seed)
    assert all(re.fullmatch(pattern, completion.text) for completion in completions)
    assert {completion.finish for completion in completions} == {"eos"}


def test_choices_and_grammars(engine):
    choice = Choice(("yes", 'not "yet"', "never"))
    assert complete(engine, choice)[0].text in choice.texts
    nested = Lark('start: "(" start ")" | "x"')
    (completion,) = complete(engine, nested, temperature=0.0)
    depth = completion.text.count("(")
    if completion.finish == "eos":
        assert completion.text == "(" * depth + "x" + ")" * depth


def test_a_grammar_changes_nothing_for_others(lm, engine):
    free = RequestOptions(replace(SAMPLED, max_new_tokens=9))
    constrained = RequestOptions(SAMPLED, grammar=Regex("[0-9]{9}"))
    (first,), (second,) = engine.submit("ab", free), engine.submit("cd", constrained)
    done = {out.id: out.completion for out in engine.run() if out.completion is not None}
    (alone,) = lm.generate("ab", options=free.decoding)
    assert done[first].tokens == alone.tokens
    assert done[second].text.isdigit()


def test_only_what_ends_the_text_may_follow_when_it_is_complete(lm):
    matcher = GrammarCompiler(lm.tokenizer).matcher(Regex("ab?"))
    ends = lm.tokenizer.stop_ids
    (a,), (b,) = lm.tokenizer.encode_batch(["a", "b"])
    assert np.flatnonzero(matcher.allowed(ends)).tolist() == [a]
    matcher.accept(a)
    assert set(np.flatnonzero(matcher.allowed(ends)).tolist()) == {b, *ends}
    matcher.accept(b)
    assert set(np.flatnonzero(matcher.allowed(ends)).tolist()) == set(ends)


@pytest.mark.parametrize(
    ("grammar", "problem"),
    [
        (Regex("["), "regular expression: cannot be used: .*unclosed"),
        (Lark("start: foo"), "grammar: cannot be used: .*unknown name"),
        (JsonSchema('{"type": "nope"}'), "JSON schema: cannot be used: .*nope"),
        (JsonSchema("{"), "JSON schema: cannot be used"),
        (Choice(()), "choices: has no texts"),
        (Regex("a" * 70_000), "70000 characters, of at most 65536"),
    ],
)
def test_what_is_not_valid_is_refused_before_it_waits(engine, grammar, problem):
    with pytest.raises(UserError, match=problem):
        complete(engine, grammar)
    assert engine.is_idle


def test_without_llguidance_its_extra_is_named(engine, monkeypatch):
    monkeypatch.setattr("llmjax.engine.grammars.importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"llguidance is not installed; pip install 'llmjax\[serve\]'"
    ):
        complete(engine, Regex("a"))
