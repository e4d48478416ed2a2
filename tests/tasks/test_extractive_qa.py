"""Extractive QA: windows, targets, candidates, unanswerable questions, and learning."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.losses.labels import softmax_cross_entropy
from llmjax.tasks.answer_spans import ContextWindow, answer_tokens, candidates, true_answers
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.packing import lay_out, pack, shape_of
from llmjax.tasks.predict import compute_outputs, total_loss
from llmjax.tasks.task import PredictionData, body
from task_models import eight_devices, opened, predicted, rows_of, trained

CONFIG = ExtractiveQATask(stride=8, max_answer_tokens=6, candidates=5)


def row(question, context, answer=None, **more):
    start = context.find(answer) if answer else 0
    known = {"text": [answer], "answer_start": [start]} if answer else {}
    return {
        "question": question,
        "context": context,
        "answers": known or {"text": [], "answer_start": []},
        **more,
    }


ROWS = rows_of(
    row(
        "Wo?", "Die Spree fließt durch Berlin, die Elbe durch Dresden und durch Hamburg.", "Berlin"
    ),
    row("Was?", "Ein Café in Paris.", "Café"),
    row("Wann?", "Nie zuvor.", None),
)


@pytest.fixture(scope="module")
def started():
    task, network = opened(CONFIG, ROWS)
    return task, network, jax.jit(network.init)(jax.random.key(1))


def test_metadata_of_the_rows(started):
    task, _, _ = started
    assert task.metadata.labels == ("answered", "unanswered")
    assert task.metadata.counts == (2, 1)
    assert task.may_have_no_answer
    assert task.head.outputs == 2


def test_windows_cover_the_context_and_share_tokens(started):
    task, _, _ = started
    context = ROWS[0].values["context"]
    parts = [example for example in task.examples(ROWS) if example.row == 0]
    assert len(parts) > 1
    reached = 0
    for example in parts:
        window = example.details
        assert example.length <= 48
        assert window.first == 0 or reached - window.first == 8
        reached = window.first + len(window.offsets)
        text = task.context.tokenizer.decode(window.tokens[window.start :])
        assert text == context.encode()[window.first : reached].decode(errors="replace")
        assert task.context.tokenizer.decode(window.tokens[: window.start]) == "Wo?"
    assert reached == len(context.encode())


def test_a_window_that_holds_the_answer_points_at_it(started):
    task, _, _ = started
    spelt = {0: set(), 1: set(), 2: set()}
    for example in task.examples(ROWS):
        first, last = example.target.astype(int)
        full = b"Berlin" in task.context.tokenizer.decode_bytes(example.segments[0].tokens)
        if example.row == 0:
            assert full == bool(first)
        tokens = example.segments[0].tokens[first : last + 1]
        spelt[example.row].add(task.context.tokenizer.decode(tokens) if first else None)
    assert spelt == {0: {"Berlin", None}, 1: {"Café"}, 2: {None}}


def test_an_answer_has_the_tokens_that_stand_for_any_of_it():
    offsets = [(0, 3), (3, 3), (3, 6), (6, 7), (7, 12)]
    assert answer_tokens((3, 6), offsets) == (2, 2)
    assert answer_tokens((4, 8), offsets) == (2, 4)
    assert answer_tokens((12, 14), offsets) is None
    window = ContextWindow([], [], 5, 2, np.array(offsets[2:4]))
    assert window.target((2, 3)) == (5, 6)
    assert window.target((1, 3)) == window.target((2, 4)) == window.target(None) == (0, 0)


def test_the_loss_is_the_mean_cross_entropy_of_both_ends_within_the_window(started):
    task, network, params = started
    examples = task.examples(ROWS)
    result = compute_outputs(task, network.model, params, examples, 2, None)
    nats = hits = 0.0
    for example, output in zip(examples, result, strict=True):
        shares = jax.nn.log_softmax(output["logits"], axis=0)
        for k in (0, 1):
            target = int(example.target[k])
            nats -= float(shares[target, k]) / 2
            hits += float(output["logits"][:, k].argmax() == target) / 2
    sums = total_loss(task, network.model, params, examples, 2, None)
    assert sums.weight == len(examples)
    assert sums.nll == pytest.approx(nats, rel=1e-5)
    assert sums.correct == pytest.approx(hits)


def test_neighbours_in_a_row_and_devices_change_nothing(started):
    task, network, params = started
    examples = task.examples(ROWS)
    packed = compute_outputs(task, network.model, params, examples, 2, None)
    for example, output in zip(examples, packed, strict=True):
        (alone,) = compute_outputs(task, network.model, params, [example], 1, None)
        assert alone["logits"] == pytest.approx(output["logits"], abs=1e-5)
    full = total_loss(task, network.model, params, examples, 8, None)
    shared = total_loss(task, network.model, params, examples, 8, eight_devices())
    assert shared == pytest.approx(full, rel=1e-5)


def test_empty_slots_have_no_part_in_gradients(started):
    task, network, params = started
    examples = task.examples(ROWS[1:])
    shape = shape_of(examples, 48, encodes=False)
    rows = pack(examples, range(len(examples)), shape)

    @jax.jit
    def of(arrays):
        return jax.grad(lambda p: task.loss(network.model, p, arrays, None).objective)(params)

    def gradients(count):
        return of(lay_out(examples, rows[:count] + [[]] * (3 - count), shape))

    with_pairs, empty = gradients(len(rows)), gradients(0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(with_pairs))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(body(with_pairs)))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(empty))


def test_candidates_are_the_best_of_all_pairs():
    random = np.random.default_rng(0)
    offsets = np.array([(index, index + 1) for index in range(7)])
    offsets[3] = (3, 3)
    window, logits = (
        ContextWindow([], [], 2, 0, offsets),
        random.normal(size=(10, 2)).astype(np.float32),
    )
    part = logits[2:9].astype(float)
    pairs = [
        (part[i, 0] + part[j, 1], (i, j + 1))
        for i in range(7)
        for j in range(i, min(i + 3, 7))
        if 3 not in (i, j)
    ]
    result = candidates(window, logits, 7, 3)
    expected = sorted(pairs, reverse=True)[:7]
    assert [item.span for item in result] == [span for _, span in expected]
    assert [item.score for item in result] == pytest.approx([value for value, _ in expected])


def predicted_by(task, rows, choose):
    """Predictions where `choose(example)` -> (first, last, logit) of the predicted tokens."""
    examples, result = task.examples(rows), []
    for example in examples:
        logits = np.zeros((example.length, 2), np.float32)
        first, last, logit = choose(example)
        logits[first, 0] = logits[last, 1] = logit
        result.append({"logits": logits})
    return task.predictions(PredictionData(rows, examples, result, None))


def truly(example):
    return (*example.target.astype(int), 9.0)


def test_predictions_speak_of_the_context(started):
    task, _, _ = started
    first, second, third = predicted_by(task, ROWS, truly)
    assert (first["answer"], first["start"]) == ("Berlin", 23)
    assert (second["answer"], second["start"]) == ("Café", 4)
    assert second["probability"] > 0.9
    assert second["none_score"] < 0
    assert (third["answer"], third["start"], third["none_score"]) == ("", None, 18.0)
    assert third["best"] != ""
    assert 2 <= len(third["candidates"]) <= 6, "five and none"
    assert third["candidates"][0]["answer"] == ""
    for item in (first, second, third):
        assert sum(c["probability"] for c in item["candidates"]) == pytest.approx(1)
        for candidate in item["candidates"]:
            if candidate["start"] is not None:
                context = ROWS[(first, second, third).index(item)].values["context"]
                assert context[candidate["start"] :].startswith(candidate["answer"])
    spans = [(c["answer"], c["start"]) for c in first["candidates"]]
    assert len(set(spans)) == len(spans), "windows share tokens, not candidates"
    json.dumps([first, second, third], allow_nan=False)
    result = task.metrics(ROWS, [first, second, third])
    assert result["exact_match"].value == result["unanswered_accuracy"].value == 1
    assert result.tables["threshold"]["f1"]["value"] == 1


def test_where_every_question_has_an_answer_one_is_always_given():
    task, _ = opened(CONFIG, ROWS[:2])
    predictions = predicted_by(task, ROWS[:2], lambda example: (0, 0, 9.0))
    assert all(prediction["answer"] for prediction in predictions)
    assert all(prediction["none_score"] > 0 for prediction in predictions)
    assert all(2 <= len(prediction["candidates"]) <= 5 for prediction in predictions)
    names = [figure.name for figure in task.metrics(ROWS[:2], predictions).metrics]
    assert names == ["f1", "exact_match"]
    assert not task.metrics(ROWS, predicted_by(task, ROWS, truly)).tables, "no threshold matters"


def test_the_threshold_is_where_answers_are_dropped(started):
    task, _, _ = started
    for threshold, answered in ((17.9, False), (18.0, True)):
        config = replace(CONFIG, no_answer_threshold=threshold)
        other = config.open(task.context, task.metadata)
        third = predicted_by(other, ROWS, truly)[2]
        assert third["none_score"] == 18
        assert bool(third["answer"]) == answered
        assert (third["start"] is not None) == answered
    config = replace(CONFIG, no_answer_threshold=-99.0)
    silent = predicted_by(config.open(task.context, task.metadata), ROWS, truly)
    assert [item["answer"] for item in silent] == ["", "", ""]


def test_the_best_threshold_is_reached_by_setting_it(started):
    task, network, params = started
    predictions = predicted(task, network, params, ROWS)
    best = task.metrics(ROWS, predictions).tables["threshold"]["f1"]
    config = replace(CONFIG, no_answer_threshold=best["at"])
    other = config.open(task.context, task.metadata)
    result = other.metrics(ROWS, predicted(other, network, params, ROWS))
    assert result["f1"].value == pytest.approx(best["value"])


def test_rows_without_answers_have_no_weight(started):
    task, network, params = started
    rows = rows_of({"question": "Wo?", "context": "In Berlin."})
    (example,) = task.examples(rows)
    assert example.weight == 0
    assert set(predicted(task, network, params, rows)[0]) >= {"answer", "probability"}
    with pytest.raises(UserError, match="table line 1: has no column 'answers'"):
        task.metrics(rows, [{"answer": "", "best": "", "none_score": 0.0}])


def test_long_questions_leave_room_for_the_context(caplog):
    rows = rows_of(row("Warum " * 20, "Darum und nur darum.", "Darum"))
    task, _ = opened(CONFIG, rows)
    examples = task.examples(rows)
    assert "1 of 1 questions are cut" in caplog.text
    assert all(example.length <= 48 for example in examples)
    assert any(example.target[0] for example in examples)


def test_it_learns():
    pairs = [("a", "a=51 b=72"), ("b", "a=51 b=72"), ("a", "b=33 a=84"), ("b", "b=33 a=84")]
    rows = rows_of(*(row(q, c, c[c.index(q) + 2 :][:2]) for q, c in pairs))
    task, network = opened(CONFIG, rows)
    params = trained(task, network, task.examples(rows), 120)
    predictions = predicted(task, network, params, rows)
    assert [prediction["answer"] for prediction in predictions] == ["51", "72", "84", "33"]
    assert task.metrics(rows, predictions)["f1"].value == 1


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["cat"], "answer_start": [5]}, "'cat' is not at character 5 .* at 4"),
        (
            {"text": ["dog"], "answer_start": [4]},
            "'dog' is not .*; the context does not contain it",
        ),
        ({"text": ["cat"], "answer_start": []}, "is not a list of answers: "),
        ({"text": ["cat"]}, "is not a list of answers: 'answer_start'; write "),
        (
            {"text": ["cat"], "answer_start": ["4"]},
            "'cat' at '4' is not a text with the index of its first",
        ),
        ("cat", "is not a list of answers: it is str"),
    ],
)
def test_answers_that_are_none(answers, message):
    (one,) = rows_of({"answers": answers})
    with pytest.raises(UserError, match="table line 1, column 'answers': " + message):
        true_answers(one, "answers", "the cat sat")


def test_answers_as_a_list_of_objects():
    (one,) = rows_of(
        {"answers": [{"text": "cat", "answer_start": 4}, {"text": "", "answer_start": 0}]}
    )
    assert true_answers(one, "answers", "the cat sat") == [(4, 7)]


def test_tokens_of_no_choice_get_no_gradient():
    logits = np.array([[1.0, 2.0, -1e30, 0.5]], np.float32)

    def total(x):
        return softmax_cross_entropy(x, np.array([1]), np.ones(1)).objective

    assert float(jax.grad(total)(logits)[0, 2]) == 0
    assert float(total(logits)) == pytest.approx(
        float(total(np.delete(logits, 2, axis=1))), rel=1e-6
    )
