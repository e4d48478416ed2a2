"""Beam search on a toy model: against exhaustive search, against NumPy, on a mesh."""

import pytest

from llmjax.decoding.beams import beam_search
from llmjax.decoding.config import DecodingConfig
from llmjax.decoding.rows import Request
from llmjax.parallel.mesh import MeshConfig, make_mesh
from toy import LETTERS, LetterTokenizer, complete, log_softmax, next_logits, toy


def every_text(params, prompt, vocab_size, ends, length):
    """All texts that end with one of `ends` or are `length` long, with their log-probabilities."""
    result = []

    def grow(tokens, total):
        if tokens and (tokens[-1] in ends or len(tokens) == length):
            result.append((tokens, total))
            return
        logp = log_softmax(next_logits(params, [*prompt, *tokens]))
        for token in range(vocab_size):
            grow([*tokens, token], total + logp[token])

    grow([], 0.0)
    return result


@pytest.mark.parametrize(
    ("penalty", "ends"), [(0.0, (2,)), (1.0, (2,)), (2.0, (2,)), (1.0, (2, 0))]
)
def test_beams_wide_enough_find_the_best_of_all_texts(penalty, ends):
    tokenizer = LetterTokenizer(["a"])
    model, params = toy(5, seed=3)
    prompts, length = [[1], [1, 3, 3], [1, 3]], 4
    limits = [4, 3, 4]
    config = DecodingConfig(beams=4**length, length_penalty=penalty)
    rows = [Request(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
    result = beam_search(model, params, rows, config, tokenizer=tokenizer, stop_ids=ends)
    for prompt, limit, hypotheses in zip(prompts, limits, result, strict=True):
        texts = every_text(params, prompt, 4, ends, limit)
        ranked = sorted(texts, key=lambda text: -text[1] / len(text[0]) ** penalty)
        assert len(hypotheses) == len(texts)
        for hypothesis, (tokens, total) in zip(hypotheses[:10], ranked[:10], strict=True):
            assert hypothesis.tokens == tokens
            assert hypothesis.score == pytest.approx(total / len(tokens) ** penalty, rel=1e-4)
            assert -sum(hypothesis.nats) == pytest.approx(total, rel=1e-4)


def test_a_narrow_search_follows_its_definition():
    """A NumPy reference of beam search with three beams."""
    model, params = toy(16, seed=9)
    prompt, width, length, penalty = [1, 4, 3], 3, 8, 1.0
    live, done = [([], 0.0)], []
    for size in range(1, length + 1):
        grown = []
        for tokens, total in live:
            logp = log_softmax(next_logits(params, [*prompt, *tokens]))
            grown += [([*tokens, token], total + logp[token]) for token in range(12)]
        done += [(t, x / size**penalty) for t, x in grown if t[-1] == 2]
        live = sorted((g for g in grown if g[0][-1] != 2), key=lambda g: -g[1])[:width]
    done += [(t, x / length**penalty) for t, x in live]
    expected = sorted(done, key=lambda g: -g[1])[:width]
    config = DecodingConfig(beams=width, length_penalty=penalty)
    (result,) = beam_search(model, params, [Request(prompt, length)], config, tokenizer=LETTERS)
    assert [h.tokens for h in result] == [tokens for tokens, _ in expected]


def test_one_beam_per_prompt_and_samples_of_the_best():
    config = DecodingConfig(beams=3, samples=2, max_new_tokens=6, batch_size=4)
    together = complete(["ab", "", "cc"], config)
    assert len(together) == 6
    assert complete([""], config) == together[2:4]
    for first, second in zip(together[::2], together[1::2], strict=True):
        assert sum(first.nats) / len(first.tokens) <= sum(second.nats) / len(second.tokens)
        assert first.prompt == second.prompt


def test_beams_on_a_mesh_find_the_same():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    config = DecodingConfig(beams=3, max_new_tokens=6)
    alone, spread = (complete(["ab", "c"], config, mesh=m) for m in (None, mesh))
    assert [c.tokens for c in alone] == [c.tokens for c in spread]
