"""No text is lost between encoder and decoder rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.objective_rows import BOS, EOS, FIRST, PAD, SENTINELS, cut, keys, vocabulary
from llmjax.data.objectives.pairs import Continuation, SpanConfig, Spans
from llmjax.data.objectives.vocabulary import encoder_input

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def spans(windows, config=SpanConfig(sentinels=8), starts_with_bos=True, seed=0):  # noqa: B008 (frozen)
    return Spans(config, vocabulary(starts_with_bos)).batch(
        windows, keys(len(windows.tokens), seed)
    )


def of(batch, name, row, segment):
    """The tokens of one document of one row."""
    owners = batch["encoder_segments" if name.startswith("encoder") else "segments"][row]
    return batch[name][row, owners == segment].tolist()


def rebuilt(source: list[int], target: list[int]) -> list[int]:
    """The original text of a corrupted pair."""
    spans: dict[int, list[int]] = {}
    for token in target:
        if token in SENTINELS:
            spans[token] = []
        elif token != EOS:
            spans[list(spans)[-1]].append(token)
    text: list[int] = []
    for token in source:
        text += spans.pop(token) if token in SENTINELS else [token]
    assert not spans, "written, but left out nowhere"
    return text


def check_layout(batch, objective, length):
    spec = objective.spec(len(batch["targets"]), length)
    assert {name: (array.shape, array.dtype) for name, array in spec.items()} == {
        name: (values.shape, values.dtype) for name, values in batch.items()
    }
    np.testing.assert_array_equal(batch["weights"], batch["segments"] > 0)
    for row, owners in enumerate(batch["segments"]):
        for segment in set(owners[owners > 0].tolist()):
            targets = of(batch, "targets", row, segment)
            assert of(batch, "inputs", row, segment) == [BOS, *targets[:-1]]
            assert of(batch, "positions", row, segment) == list(range(len(targets)))
            source = of(batch, "encoder_positions", row, segment)
            assert source == list(range(len(source)))
            assert source, "a text is to be written from nothing"
    assert (batch["targets"][batch["segments"] == 0] == PAD).all()


@given(SIZES, st.booleans(), st.integers(1, 80), st.floats(0.05, 0.9), st.integers(1, 8))
def test_the_text_can_be_rebuilt_from_inputs_and_targets(
    sizes, starts_with_bos, length, density, mean
):
    windows = cut(sizes, 3, length)
    config = SpanConfig(density, mean, sentinels=8)
    batch = spans(windows, config, starts_with_bos)
    check_layout(batch, Spans(config, vocabulary()), length)
    read = encoder_input(windows, vocabulary(starts_with_bos))
    for row, segments in enumerate(windows.segments):
        for segment in set(segments[segments > 0].tolist()):
            target = of(batch, "targets", row, segment)
            text = rebuilt(of(batch, "encoder_tokens", row, segment), target)
            assert text == read[row, segments == segment].tolist()
            marks = [token for token in target if token in SENTINELS]
            assert marks == list(SENTINELS[: len(marks)]), "not counted from 0 in each document"
            assert not target or (target[-1], target.count(EOS)) == (EOS, 1)


def test_spans_are_as_dense_and_as_long_as_asked_for():
    config = SpanConfig(density=0.15, mean_length=3.0, sentinels=8)
    # One long document, with enough sentinels for each row of 128: 19 tokens in 6 spans.
    batch = spans(cut([100_000], 200, 128), config)
    marks = np.isin(batch["targets"], SENTINELS).sum()
    noise = (batch["targets"] >= FIRST).sum()
    assert noise / (200 * 128) == pytest.approx(0.15, abs=0.005)
    assert noise / marks == pytest.approx(3.0, abs=0.25)


def test_more_spans_than_sentinels_stay_in_place():
    batch = spans(cut([1000], 3, 100), SpanConfig(0.5, 1.0, sentinels=2))
    assert np.isin(batch["targets"], SENTINELS).sum(1).tolist() == [2, 2, 2]


@given(SIZES, st.booleans(), st.integers(1, 60))
def test_a_document_is_cut_in_two(sizes, starts_with_bos, length):
    windows = cut(sizes, 3, length)
    made = Continuation(vocabulary(starts_with_bos))
    batch = made.batch(windows, keys(3))
    check_layout(batch, made, length)
    for row, segments in enumerate(windows.segments):
        for segment in set(segments[segments > 0].tolist()):
            here = segments == segment
            text = windows.tokens[row, here].tolist()
            source, target = (
                of(batch, "encoder_tokens", row, segment),
                of(batch, "targets", row, segment),
            )
            begins = starts_with_bos and windows.first[row, here][0]
            if len(text) < 2:
                assert source == target == []
            else:
                assert source + target == ([BOS] if begins else []) + text
                assert target
                assert len(source) > begins
