"""The command choose: choices are ranked by likelihood, and counted."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data.tables.table import Row
from llmjax.errors import UserError
from llmjax.evaluation.choose import ChooseOptions, Question, choose, read_question, score_questions
from untrained import in_hand, make_run

QUESTIONS = [
    {"question": "Is water wet?", "choices": ["yes", "no"], "answer": 0},
    {"context": "One and one ", "choices": ["two 🙂", "three", "né"], "answer": "three"},
    {"question": "", "choices": ["something", "nothing at all"]},
    {"question": "Zwei plus zwei?", "choices": [4, 5], "answer": "5"},
]


@pytest.fixture(scope="module")
def lm():
    return in_hand()


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in QUESTIONS))
    return path


def expected(lm, text, tail):
    """Log-likelihood of the bytes of `tail` after those of `text`."""
    tokens = [*lm.tokenizer.prefix, *lm.tokenizer.encode(text + tail)]
    size = len(tail.encode())
    logits = jax.jit(lm.model.apply)(lm.params, jnp.asarray([tokens[:-1]]))[0]
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))[-size:]
    return log_probabilities[np.arange(size), tokens[-size:]].sum()


def test_choices_are_rated_by_their_likelihood(lm, data):
    seen = []
    result = choose(lm, data, each=seen.append)
    texts = ["Is water wet?", "One and one", "", "Zwei plus zwei?"]
    for number, (scored, text, row) in enumerate(zip(seen, texts, QUESTIONS, strict=True), 1):
        choices = [str(choice) for choice in row["choices"]]
        blank = "  " if number == 2 else " "  # trailing space of a prompt belongs to the choice
        reference = [expected(lm, text, f"{blank}{choice}") for choice in choices]
        np.testing.assert_allclose(scored.log_likelihoods, reference, rtol=2e-5)
        assert scored.number == number
        assert scored.choice == np.argmax(reference)
        sizes = [len(choice.encode()) for choice in choices]
        assert scored.choice_per_byte == np.argmax(np.array(reference) / sizes)
        actual = scored.to_dict()
        shares = np.exp(reference) / np.exp(reference).sum()
        np.testing.assert_allclose(actual["probabilities"], shares, atol=1e-4)
        assert actual["text"] == choices[scored.choice]
    answers = [0, 1, None, 1]
    assert [item.question.answer for item in seen] == answers
    right = [one.choice == a for one, a in zip(seen, answers, strict=True) if a is not None]
    per_byte = [
        one.choice_per_byte == a for one, a in zip(seen, answers, strict=True) if a is not None
    ]
    accuracy = result.measures["accuracy"]
    assert accuracy.value == pytest.approx(np.mean(right))
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert result.measures["accuracy_per_byte"].value == pytest.approx(np.mean(per_byte))
    assert result.measures.examples == 3
    assert result.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert result.questions == 4
    assert "4, 3 with an answer" in str(result)


def test_the_prompt_and_the_delimiter_stand_around_the_question(lm):
    questions = [Question("x", "Wet?", ("yes", "no"), None)]
    (result,) = score_questions(
        lm, questions, ChooseOptions(prompt="Question: {}\nAnswer:", delimiter="=")
    )
    reference = [expected(lm, "Question: Wet?\nAnswer:", choice) for choice in ("=yes", "=no")]
    np.testing.assert_allclose(result.log_likelihoods, reference, rtol=2e-5)


def test_limit_takes_the_first_questions(lm, data):
    assert choose(lm, data, limit=2).questions == 2


def test_without_answers_there_are_no_figures(lm, tmp_path):
    path = tmp_path / "open.jsonl"
    path.write_text(json.dumps(QUESTIONS[2]))
    result = choose(lm, path)
    assert (result.measures, result.chance) == (None, None)
    assert "accuracy" not in str(result)
    assert result.to_dict()["measures"] is None


def test_an_encoder_decoder_writes_after_bos(tmp_path, data):
    lm = in_hand(num_encoder_layers=1, num_decoder_layers=1)
    seen = []
    choose(lm, data, each=seen.append)
    source = jnp.asarray([lm.tokenizer.wrap(lm.tokenizer.encode("Is water wet?"))[0]])
    tail = lm.tokenizer.encode(" yes")
    inputs = jnp.asarray([[lm.tokenizer.bos_id, *tail[:-1]]])
    logits = lm.model.apply(lm.params, inputs, encoder_tokens=source)[0]
    expected_total = np.asarray(jax.nn.log_softmax(logits))[np.arange(len(tail)), tail].sum()
    assert seen[0].log_likelihoods[0] == pytest.approx(expected_total, rel=2e-5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question": "a", "choices": ["x"]}, "has 1 choices; give at least two"),
        ({"choices": ["x", "y"]}, "has no text 'question'"),
        ({"question": "a"}, "has no column 'choices'"),
        ({"question": "a", "choices": ["x", ""]}, "has a choice that is not text: ''"),
        ({"question": "a", "choices": ["x", None]}, "has a choice that is not text: None"),
        ({"question": "a", "choices": ["x", "y"], "answer": 2}, "give its text, or its index"),
        ({"question": "a", "choices": ["x", "y"], "answer": "z"}, "has the answer 'z'"),
        ({"question": "a", "choices": ["x", "y" * 200]}, "choice 1: has 201 tokens"),
    ],
)
def test_bad_questions_are_reported_with_their_line(lm, tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(QUESTIONS[0]) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(UserError, match="line 2") as caught:
        choose(lm, path)
    assert message in str(caught.value)


def test_other_mistakes(lm, data):
    with pytest.raises(UserError, match="has no placeholder for the question"):
        choose(lm, data, prompt="Question:")
    with pytest.raises(UserError, match="not positive"):
        choose(lm, data, limit=0)


def test_the_command_prints_a_table_or_lines(command, tmp_path, data):
    run = str(make_run(tmp_path).folder)
    code, out, _ = command("choose", run, "--data", str(data))
    assert code == 0
    assert "accuracy per byte" in out
    code, out, _ = command("choose", run, "--data", str(data), "--limit", "3", "--json")
    *lines, last = map(json.loads, out.splitlines())
    assert [line["question"] for line in lines] == [1, 2, 3]
    assert last["questions"] == 3
    assert last["measures"]["examples"] == 2


@pytest.mark.parametrize("answer", ["9" * 5000, "--1", "²", "1.0", -1, 2, True, 0.0])
def test_an_answer_that_is_no_choice_is_named(answer):
    row = Row("quiz line 1", {"question": "a", "choices": '["b", "c"]', "answer": answer})
    with pytest.raises(UserError, match="quiz line 1: has the answer") as caught:
        read_question(row)
    assert len(str(caught.value)) < 200


def test_choices_that_are_no_json_are_named():
    row = Row("quiz line 1", {"question": "a", "choices": "[" * 10**5})
    with pytest.raises(UserError, match="quiz line 1, column 'choices': has JSON nested"):
        read_question(row)
