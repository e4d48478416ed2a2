"""Runs without this or that: the page says what is missing and compares only what compares."""

import json
import math
import re

import pytest
from pages import Document, page
from run_folders import ENVIRONMENT, TEXT, eval_line, train_line

from llmjax.reporting.report import report


def test_an_empty_run_says_so(maker):
    text = page(maker.write()).text
    for sentence in (
        "Machine, versions, command not recorded",
        "Steps none logged",
        "metrics.jsonl is empty or missing",
        "it has not been evaluated on validation text",
        "No curves: no step has been logged.",
        "No samples: samples.every is not set",
        "No environment.json",
        "not evaluated yet",
        "xz -9e",
    ):
        assert sentence in text


def test_a_run_without_evaluations_says_so(maker):
    text = page(maker.write([train_line(step) for step in range(1, 50)])).text
    assert "Not evaluated on validation text yet" in text
    assert "bits per byte of the last training batches" in text
    assert "49 of 1,200 steps are logged so far" in text


def test_evaluations_alone_are_enough(maker):
    text = page(maker.write([eval_line(1200)])).text
    assert "bits per byte of validation text" in text
    assert "No training step has been logged" in text


def test_a_sparse_run_shows_its_routers(maker):
    titles = ("Load of the fullest expert", "Entropy of the router", "Tokens dropped by experts")
    lines = [train_line(step) for step in range(1, 50)]
    dense = page(maker.write(lines)).text
    routers = {"expert_load_max": 1.5, "router_entropy": 1.2, "expert_dropped_share": 0.04}
    sparse = page(maker.write([line | routers for line in lines])).text
    assert [title in dense for title in titles] == [False] * 3
    assert [title in sparse for title in titles] == [True] * 3


def test_values_that_are_not_finite_leave_gaps_and_a_warning(maker):
    lines = [train_line(step) for step in range(1, 101)]
    for step in (40, 41):
        lines[step - 1] |= {"loss": math.nan, "bits_per_byte": math.nan, "gradient_norm": math.inf}
    document = page(maker.write([*lines, eval_line(100) | {"loss": None, "bits_per_byte": None}]))
    assert "not a finite number in 2 logged training steps, first at step 40" in document.text
    assert "not a finite number in 1 logged evaluation, first at step 100" in document.text
    assert not re.search(r'd="[^"]*(nan|inf)', document.source)


@pytest.mark.parametrize("value", [None, "much", [], {}, math.nan, True])
def test_any_column_may_hold_anything(maker, value):
    lines = [
        {"step": step, "kind": "train"}
        | dict.fromkeys(train_line(1).keys() - {"step", "kind"}, value)
        for step in (1, 2)
    ]
    environment = {"model": value, "data": value, "sessions": [value, {"machine": value}]}
    samples = [{"step": 1, "prompt": value, "text": value}, {"step": 2, "text": "fine"}]
    assert "fine" in page(maker.write(lines, samples, environment)).text


def test_resumed_and_torn_runs_are_footnoted(maker):
    lines = [train_line(step) for step in (1, 2, 3, 2, 3, 4)]
    environment = ENVIRONMENT | {"sessions": ENVIRONMENT["sessions"] * 3}
    text = page(maker.write([*lines, '{"step": 5, "ki'], environment=environment)).text
    assert "started 3 times" in text
    assert "resumed from an earlier step 1 time;" in text
    assert "1 line was skipped as unreadable" in text


def test_a_long_run_stays_small_and_keeps_its_spike(maker):
    lines = [train_line(step, 30_000) for step in range(1, 30_001)]
    lines[27_776] |= {"gradient_norm": 123.4}
    document = Document(report(maker.write(lines)))
    assert len(document.source) < 500_000
    label = next(a["aria-label"] for a in document.all("svg") if "Gradient" in a["aria-label"])
    assert "123.4" in label


def of_bytes(step: int, length: int, bits: float):
    return eval_line(step) | {"heldout_bytes": length, "heldout_tokens": 9, "bits_per_byte": bits}


def test_a_run_evaluated_in_part_claims_nothing_against_the_compressors(maker):
    text = page(maker.write([train_line(10), of_bytes(10, 100, 0.01)])).text
    assert "first 100 of these bytes" in text
    assert "than xz -9e" not in text


def test_evaluations_of_different_text_are_not_compared(maker):
    """While training a part was scored, at the end everything: the part's better figure is no
    best, and no crossing of the dashed level."""
    length = len(TEXT)
    lines = [train_line(10), of_bytes(10, 100, 0.01), of_bytes(20, 100, 0.02)]
    document = page(maker.write([*lines, of_bytes(20, length, 0.03)]))
    assert "smaller than xz -9e" in document.text
    assert f"Text scored {length:,} bytes, 9 tokens" in document.text
    assert "Best so far" not in document.text
    assert "Below xz" not in document.text
    assert "The validation curve is of the first 100 bytes of the validation text" in document.text
    assert f"A diamond is of {length:,} bytes: a different text" in document.text
    assert "On the subset of the curve 0.0100 bits per byte step 10, on 100 bytes" in document.text


def test_the_validation_curve_is_of_one_subset(maker):
    """Three evaluations of a part, one of everything and one of another part."""
    sizes = {10: 100, 20: 100, 30: 100, 40: 50, 50: 1000}
    lines = [of_bytes(step, length, 0.01 * step) for step, length in sizes.items()]
    environment = ENVIRONMENT | {"data": {"heldout_bytes": 1000}}
    document = page(maker.write([train_line(10), *lines], environment=environment))
    values = re.findall(r'<script type="application/json">(.*?)</script>', document.source)
    curves = {curve["name"]: curve["points"] for curve in json.loads(values[0])}
    assert [step for step, _ in curves["validation"]] == [10, 20, 30]
    assert curves["full set"] == [[50, 0.5]]
    assert 'class="diamonds full"' in document.source
    assert "Not drawn: 1 evaluation of another part" in document.text


def test_a_figure_of_a_part_says_so(maker):
    environment = ENVIRONMENT | {"data": {"heldout_bytes": 1000}}
    text = page(maker.write([train_line(10), of_bytes(10, 100, 0.5)], environment=environment)).text
    assert "0.500 bits per byte of a part of the validation text" in text


def test_evaluations_of_one_text_are_compared(maker):
    results = {10: 5.0, 20: 0.02, 30: 0.03}
    lines = [of_bytes(step, len(TEXT), bits) for step, bits in results.items()]
    text = page(maker.write([train_line(10), *lines])).text
    assert "Best so far 0.0200 bits per byte step 20" in text
    assert "Below xz -9e, the dashed line, for the first time at step 20." in text
    assert "part of the validation text" not in text
