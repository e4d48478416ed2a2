"""Decoding on a toy model whose every probability is known: steps, keys, stops, beams, streams."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from toy import LetterTokenizer, log_softmax, next_logits, toy

from llmjax.decoding import DecodingConfig, decoding_problems, stream_completions
from llmjax.decoding.beams import beam_search
from llmjax.decoding.rows import Row, bucket
from llmjax.decoding.steps import generate_tokens
from llmjax.decoding.text import StopStrings, TextWriter
from llmjax.errors import UserError
from llmjax.mesh import MeshConfig, make_mesh

LETTERS = LetterTokenizer(["a", "b", "c", "ab", "cab", " ", "ba", "\n", "abc"])
SAMPLED = DecodingConfig(max_new_tokens=20, temperature=1.3, seed=5)
GREEDY = DecodingConfig(max_new_tokens=20, temperature=0.0)


def complete(prompts, config, tokenizer=LETTERS, mesh=None, **fields):
    """Completions in order, after checking that streamed pieces add up to them."""
    model, params = toy(16, **fields)
    texts, done = {}, {}
    for piece in stream_completions(model, params, tokenizer, prompts, config, mesh):
        assert piece.row not in done, "a piece after the last one"
        texts[piece.row] = texts.get(piece.row, "") + piece.text
        if piece.completion is not None:
            done[piece.row] = piece.completion
    assert {row: completion.text for row, completion in done.items()} == texts
    return [done[row] for row in sorted(done)]


def test_greedy_follows_the_likeliest_token_in_ragged_rows():
    _, params = toy(16)
    prompts = ["", "a", "abcab", "c" * 20, "ba ba\n" * 4]
    for prompt, completion in zip(prompts, complete(prompts, GREEDY), strict=True):
        tokens = [LETTERS.bos_id, *LETTERS.encode(prompt)]
        nats = []
        while len(nats) < 20 and (not nats or tokens[-1] != LETTERS.eos_id):
            logits = next_logits(params, tokens)
            tokens.append(int(np.argmax(logits[: LETTERS.vocab_size])))
            nats.append(-log_softmax(logits)[tokens[-1]])
        assert completion.tokens == tuple(tokens[-len(nats) :])
        np.testing.assert_allclose(completion.nats, nats, rtol=1e-5)
        assert completion.finish == ("eos" if tokens[-1] == LETTERS.eos_id else "length")
        assert str(completion) == prompt + completion.text


def test_tokens_that_pad_the_embedding_are_never_chosen():
    """The toy has 16 rows in its embedding and the tokenizer 12 ids."""
    config = replace(SAMPLED, temperature=50.0, samples=40, max_new_tokens=30)
    tokens = {token for completion in complete([""], config) for token in completion.tokens}
    assert tokens <= set(range(LETTERS.vocab_size))
    assert len(tokens) > 8


def test_samples_follow_the_model():
    """First tokens of many samples, against the distribution; at six standard deviations."""
    _, params = toy(16)
    draws = 4000
    config = DecodingConfig(max_new_tokens=1, temperature=1.0, samples=draws, batch_size=draws)
    counts = np.bincount([c.tokens[0] for c in complete(["ab"], config)], minlength=12)
    logits = next_logits(params, [1, *LETTERS.encode("ab")])[: LETTERS.vocab_size]
    expected = np.exp(log_softmax(logits))
    tolerance = 6 * np.sqrt(draws * expected * (1 - expected))
    assert (np.abs(counts - draws * expected) <= tolerance).all()


def test_seeds_reproduce_and_differ():
    once, again = complete(["ab", "c"], SAMPLED), complete(["ab", "c"], SAMPLED)
    assert once == again
    other = complete(["ab", "c"], replace(SAMPLED, seed=6))
    assert all(a.tokens != b.tokens for a, b in zip(once, other, strict=True))


def test_a_completion_does_not_depend_on_its_neighbours():
    prompts = ["ab", "c", "", "bab" * 5, "ca\n"]
    together = complete(prompts, SAMPLED)
    for prompt, completion in zip(prompts, together, strict=True):
        assert complete([prompt], SAMPLED) == [completion]
    assert complete(prompts[::-1], replace(SAMPLED, batch_size=2)) == together[::-1]


def test_samples_of_a_prompt_differ_and_a_repeated_prompt_is_one_more_sample():
    config = replace(SAMPLED, samples=4)
    four = complete(["ab"], config)
    assert len({completion.tokens for completion in four}) == 4
    assert complete(["ab"] * 4, SAMPLED) == four
    assert complete(["c", "ab"], config)[4:] == four


def test_how_many_steps_a_call_takes_changes_nothing(monkeypatch):
    expected = complete(["ab", "cab" * 4], SAMPLED)
    monkeypatch.setattr("llmjax.decoding.steps.STEPS_PER_CALL", 7)
    # A new seed of the toy is the same program: this model must be compiled anew.
    assert complete(["ab", "cab" * 4], SAMPLED, max_length=63) == expected


def test_the_context_ends_a_text():
    (completion,) = complete(["c" * 10], replace(SAMPLED, max_new_tokens=64), max_length=14)
    # BOS, ten letters, then tokens of which the last is never read again.
    assert completion.finish in {"context", "eos"}
    assert len(completion.tokens) <= 14 - 11 + 1
    (last,) = complete(["c" * 13], SAMPLED, max_length=14)
    assert len(last.tokens) == 1
    with pytest.raises(UserError, match="prompt 2 of 15 tokens"):
        complete(["a", "c" * 14], SAMPLED, max_length=14)


def test_repetition_penalty_counts_the_prompt_and_the_text():
    config = replace(GREEDY, repetition_penalty=1e6, max_new_tokens=10)
    _, params = toy(16)
    for completion in complete(["", "abc ", "ba"], config):
        tokens = [LETTERS.bos_id, *LETTERS.encode(completion.prompt)]
        for token in completion.tokens:
            logits = next_logits(params, tokens)[: LETTERS.vocab_size]
            seen = sorted(set(tokens))
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / 1e6, logits[seen] * 1e6)
            assert token == np.argmax(logits)
            tokens.append(token)


def test_a_mesh_changes_nothing():
    """Rows over eight devices, params whole on each."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    config = replace(SAMPLED, top_k=6, top_p=0.9, min_p=0.01, repetition_penalty=1.1)
    prompts = ["ab", "c", "bab" * 5]
    alone, spread = complete(prompts, config), complete(prompts, config, mesh=mesh)
    assert [c.tokens for c in alone] == [c.tokens for c in spread]
    np.testing.assert_allclose(
        [x for c in alone for x in c.nats], [x for c in spread for x in c.nats], rtol=1e-5
    )


def test_problems_are_listed_at_once():
    wrong = DecodingConfig(temperature=float("nan"), top_k=0, top_p=1.5, beams=2, stop=("",))
    assert len(decoding_problems(wrong)) == 5
    assert decoding_problems(DecodingConfig()) == []
    with pytest.raises(UserError, match=r"(?s)temperature.*top_k.*top_p.*stop.*beams"):
        complete([""], wrong)


# Stop strings


def whole(text, stops):
    """Where text ends, looking at all of it: before the stop string that is complete first."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


@pytest.mark.parametrize(
    "stops", [("b",), ("abc",), ("aab",), ("abc", "b"), ("abab", "ba"), ("ca", "abca"), ()]
)
def test_stop_strings_are_found_however_the_text_is_cut(stops):
    rng = np.random.default_rng(1)
    for _ in range(300):
        text = "".join(rng.choice(list("abc"), rng.integers(0, 12)))
        cuts = sorted(rng.integers(0, len(text) + 1, rng.integers(0, 5)))
        matcher, shown = StopStrings(stops), ""
        for start, end in itertools.pairwise([0, *cuts, len(text)]):
            shown += matcher.push(text[start:end])
            assert whole(text, stops).startswith(shown)
        assert shown + matcher.flush() == whole(text, stops)
        assert matcher.stopped == (whole(text, stops) != text or any(s in text for s in stops))


def test_text_that_can_be_no_stop_string_is_not_held_back():
    matcher = StopStrings(["abc"])
    assert [matcher.push(c) for c in "xabx"] == ["x", "", "", "abx"]


def test_stop_strings_across_tokens_end_a_completion():
    """Every three letters in a row of a text serve as its stop string; some are in two tokens."""
    config = replace(SAMPLED, samples=4)
    free = complete(["ab"], config)
    row = max(range(4), key=lambda row: len(free[row].text))
    assert len(free[row].text) >= 12
    for start in range(10):
        stop = free[row].text[start : start + 3]
        cut = complete(["ab"], replace(config, stop=(stop, "never")))[row]
        assert cut.text == free[row].text[: free[row].text.find(stop)]
        assert cut.finish == "stop"
        assert free[row].tokens[: len(cut.tokens)] == cut.tokens


def test_no_piece_holds_a_part_of_a_character():
    class Bytes(LetterTokenizer):
        def __init__(self):
            super().__init__([])
            self.pieces = [b"", b"", b"", *(bytes([i]) for i in range(256))]

    text = "aé漢🙂z"
    writer = TextWriter(Bytes(), [], fresh=True)
    pieces = [writer.push(3 + byte) for byte in text.encode()]
    assert [piece for piece in pieces if piece] == list(text)
    writer.push(3 + "🙂".encode()[0])
    assert writer.flush() == ""
    assert writer.text == text


def test_a_text_of_its_own_does_not_show_its_tokenizers_leading_space():
    class Spaced(LetterTokenizer):
        def decode_bytes(self, ids):
            return super().decode_bytes(ids).removeprefix(b" ")

    tokenizer = Spaced([" a", "b"])
    for fresh, expected in ((True, "a ab"), (False, " a ab")):
        writer = TextWriter(tokenizer, [], fresh=fresh)
        assert "".join(map(writer.push, [3, 3, 4])) == expected


# Beams


def every_text(params, prompt, vocab_size, eos_id, length):
    """All texts that end with EOS or are `length` long, with their log-probabilities."""
    found = []

    def grow(tokens, total):
        if tokens and (tokens[-1] == eos_id or len(tokens) == length):
            found.append((tokens, total))
            return
        logp = log_softmax(next_logits(params, [*prompt, *tokens]))
        for token in range(vocab_size):
            grow([*tokens, token], total + logp[token])

    grow([], 0.0)
    return found


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_beams_wide_enough_find_the_best_of_all_texts(penalty):
    tokenizer = LetterTokenizer(["a"])
    model, params = toy(5, seed=3)
    prompts, length = [[1], [1, 3, 3], [1, 3]], 4
    limits = [4, 3, 4]
    config = DecodingConfig(beams=4**length, length_penalty=penalty)
    rows = [Row(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
    found = beam_search(model, params, rows, config, tokenizer=tokenizer)
    for prompt, limit, hypotheses in zip(prompts, limits, found, strict=True):
        texts = every_text(params, prompt, 4, 2, limit)
        ranked = sorted(texts, key=lambda text: -text[1] / len(text[0]) ** penalty)
        assert len(hypotheses) == len(texts)
        for hypothesis, (tokens, total) in zip(hypotheses[:10], ranked[:10], strict=True):
            assert hypothesis.tokens == tokens
            assert hypothesis.score == pytest.approx(total / len(tokens) ** penalty, rel=1e-4)
            assert -sum(hypothesis.nats) == pytest.approx(total, rel=1e-4)


def test_a_narrow_search_is_what_its_definition_says():
    """Three beams, step by step in NumPy."""
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
    (found,) = beam_search(model, params, [Row(prompt, length)], config, tokenizer=LETTERS)
    assert [h.tokens for h in found] == [tokens for tokens, _ in expected]


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


# Rows


def test_bucket():
    assert [bucket(n) for n in (1, 16, 17, 100)] == [16, 16, 32, 128]
    assert [bucket(n, 6) for n in (1, 6, 7)] == [6, 6, 12]


def test_rows_end_one_by_one_and_the_call_ends_with_the_last():
    model, params = toy(16)
    rows = [Row([1], 3), Row([1, 4], 9)]
    config = replace(SAMPLED, temperature=0.01)
    params = params.at[..., 2].set(-1e9)  # no EOS
    tokens = np.concatenate(
        [w.tokens for w in generate_tokens(model, params, rows, config, tokenizer=LETTERS)], axis=1
    )
    assert ((tokens >= 0).sum(1) == [3, 9]).all()
    assert (tokens[0, 3:] == -1).all()
