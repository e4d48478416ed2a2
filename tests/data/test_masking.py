"""Masking: which tokens are hidden, how, and which never are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.objective_rows import BOS, EOS, FIRST, MASK, cut, keys, vocabulary
from llmjax.data.objectives.masked import Masked, MaskedConfig
from llmjax.data.objectives.vocabulary import encoder_input, vocabulary_of, word_numbers
from llmjax.data.tokenizers.config import BytesConfig

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def masked(windows, config=MaskedConfig(), starts_with_bos=True, seed=0):  # noqa: B008 (frozen)
    return Masked(config, vocabulary(starts_with_bos)).batch(
        windows, keys(len(windows.tokens), seed)
    )


@given(SIZES, st.booleans(), st.booleans(), st.integers(1, 40))
def test_only_hidden_text_has_weight_and_the_rest_is_unchanged(
    sizes, starts_with_bos, whole_words, length
):
    windows = cut(sizes, 3, length)
    batch = masked(windows, MaskedConfig(whole_words=whole_words), starts_with_bos)
    inputs, targets, weights = batch["inputs"], batch["targets"], batch["weights"]
    np.testing.assert_array_equal(targets, encoder_input(windows, vocabulary(starts_with_bos)))
    assert set(weights.ravel().tolist()) <= {0.0, 1.0}
    assert (targets[weights > 0] >= FIRST).all(), "a special token is to be predicted"
    assert (windows.segments[weights > 0] > 0).all(), "padding is to be predicted"
    np.testing.assert_array_equal(inputs[weights == 0], targets[weights == 0])
    free = (targets >= FIRST) & (windows.segments > 0)
    if not whole_words:
        expected = [max(1, round(0.15 * n)) if n else 0 for n in free.sum(1)]
        assert weights.sum(1).tolist() == expected
    assert (weights.sum(1) <= np.maximum(1, np.round(0.15 * free.sum(1)))).all()


@pytest.mark.parametrize("whole_words", [False, True])
def test_80_percent_of_hidden_tokens_are_masks_and_10_random(whole_words):
    batch = masked(cut([300] * 80, 100, 200), MaskedConfig(whole_words=whole_words))
    hidden = batch["weights"] > 0
    inputs, targets = batch["inputs"][hidden], batch["targets"][hidden]
    count = hidden.sum()
    assert count / (batch["targets"] >= FIRST).sum() == pytest.approx(0.15, abs=0.005)
    shares = (
        np.array([(inputs == MASK).sum(), ((inputs != MASK) & (inputs != targets)).sum()]) / count
    )
    deviation = np.sqrt(0.8 * 0.2 / count)
    assert shares == pytest.approx([0.8, 0.1], abs=5 * deviation)
    replaced = inputs[(inputs != MASK) & (inputs != targets)]
    assert replaced.min() >= FIRST
    assert len(set(replaced.tolist())) > 100, "replaced by few tokens only"


def test_other_shares():
    batch = masked(cut([300] * 20, 20, 200), MaskedConfig(share=0.5, masked=0.0, random=1.0))
    hidden = batch["weights"] > 0
    assert hidden.sum() / hidden.size == pytest.approx(0.5, abs=0.05)
    assert (batch["inputs"] != MASK).all()
    assert (batch["inputs"][hidden] != batch["targets"][hidden]).mean() > 0.95


@given(SIZES, st.integers(1, 60), st.integers(0, 5))
def test_whole_words_are_never_split(sizes, length, seed):
    windows = cut(sizes, 2, length, seed)
    batch = masked(windows, MaskedConfig(share=0.4, whole_words=True), seed=seed)
    words = word_numbers(batch["targets"], windows.segments, vocabulary())
    for row in range(2):
        for word in set(words[row].tolist()):
            assert len(set(batch["weights"][row, words[row] == word].tolist())) == 1


def test_single_tokens_do_split_words():
    """Shows that the test above could fail."""
    windows = cut([300] * 10, 10, 200)
    batch = masked(windows)
    words = word_numbers(batch["targets"], windows.segments, vocabulary())
    parts = [set(batch["weights"][0, words[0] == word].tolist()) for word in set(words[0].tolist())]
    assert any(len(part) == 2 for part in parts)


def test_words_of_real_text():
    tokenizer = BytesConfig().open()
    assert tokenizer is not None
    text = "Don't x_1 = 你好é!"
    tokens = np.array([[tokenizer.bos_id, *tokenizer.encode(text)]])
    words = word_numbers(tokens, np.ones_like(tokens), vocabulary_of(tokenizer))[0, 1:]
    data = text.encode()
    spans = [bytes(b for b, w in zip(data, words, strict=True) if w == n) for n in sorted({*words})]
    expected = ["Don", "'", "t", " ", "x_1", " ", "=", " ", "你", "好é", "!"]
    assert [part.decode() for part in spans] == expected


def test_masks_depend_on_the_key_alone():
    windows = cut([300] * 4, 4, 100)
    first, again, second = (masked(windows, seed=seed) for seed in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["weights"] != second["weights"]).any(axis=1).all()


def test_text_begins_with_bos_or_ends_with_eos_as_the_tokenizer_says():
    windows = cut([2, 3], 1, 14)
    assert encoder_input(windows, vocabulary(starts_with_bos=True))[0].tolist().count(BOS) == 2
    assert EOS not in encoder_input(windows, vocabulary(starts_with_bos=True))
    read = encoder_input(windows, vocabulary(starts_with_bos=False))[0]
    assert [read[2], read[6]] == [EOS, EOS]
