"""Decoding on a toy model with known probabilities: steps, keys, stops, beams, streams."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.decoding.config import DecodingConfig, decoding_problems
from llmjax.decoding.rows import Request, bucket
from llmjax.decoding.steps import generate_tokens
from llmjax.decoding.text import StopStrings, TextWriter
from llmjax.errors import UserError
from llmjax.parallel.mesh import MeshConfig, make_mesh
from toy import LETTERS, LetterTokenizer, complete, log_softmax, next_logits, toy

SAMPLED = DecodingConfig(max_new_tokens=20, temperature=1.3, seed=5)
GREEDY = DecodingConfig(max_new_tokens=20, temperature=0.0)


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


def test_each_of_several_ends_ends_a_text():
    class Ends(LetterTokenizer):
        stop_ids = (2, 6)

    pieces = [piece.decode() for piece in LETTERS.pieces[3:]]
    config = replace(SAMPLED, samples=20)
    plain = complete(["ab"], config)
    assert any(6 in completion.tokens for completion in plain)
    for before, after in zip(plain, complete(["ab"], config, Ends(pieces)), strict=True):
        cut = before.tokens.index(6) + 1 if 6 in before.tokens else None
        assert after.tokens == before.tokens[:cut]
        if cut is not None:
            assert after.finish == "eos"
            assert after.text == LETTERS.decode(before.tokens[: cut - 1])


def test_a_prompt_of_tokens_is_read_as_it_is():
    ids = LETTERS.encode("abcab")
    (of_text,) = complete(["abcab"], GREEDY)
    (of_ids,) = complete([[LETTERS.bos_id, *ids]], GREEDY)
    assert of_ids.tokens == of_text.tokens
    assert of_ids.prompt == "abcab"


def test_a_model_that_expects_no_token_before_a_text_gets_none():
    class Bare(LetterTokenizer):
        prefix = ()

    bare = Bare([piece.decode() for piece in LETTERS.pieces[3:]])
    result, empty = complete(["abcab", ""], GREEDY, bare)
    assert result.tokens == complete([LETTERS.encode("abcab")], GREEDY)[0].tokens
    assert empty.tokens == complete([""], GREEDY)[0].tokens


def test_tokens_that_pad_the_embedding_are_never_chosen():
    """The toy has 16 rows in its embedding and the tokenizer 12 ids."""
    config = replace(SAMPLED, temperature=50.0, samples=40, max_new_tokens=30)
    tokens = {token for completion in complete([""], config) for token in completion.tokens}
    assert tokens <= set(range(LETTERS.vocab_size))
    assert len(tokens) > 8


def test_samples_follow_the_model():
    """First tokens of many samples against the distribution, within six standard deviations."""
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
    # A new seed of the toy is the same program; another context compiles again.
    assert complete(["ab", "cab" * 4], SAMPLED, max_length=63) == expected


def test_the_context_ends_a_text():
    (completion,) = complete(["c" * 10], replace(SAMPLED, max_new_tokens=64), max_length=14)
    # BOS, ten letters, then tokens of which the last is never read.
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
    """Rows over eight devices, parameters replicated."""
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
    """Reference: the text before the stop string that is complete first."""
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


def test_a_new_text_has_no_leading_space_of_the_tokenizer():
    class Spaced(LetterTokenizer):
        def decode_bytes(self, ids):
            return super().decode_bytes(ids).removeprefix(b" ")

    tokenizer = Spaced([" a", "b"])
    for fresh, expected in ((True, "a ab"), (False, " a ab")):
        writer = TextWriter(tokenizer, [], fresh=fresh)
        assert "".join(map(writer.push, [3, 3, 4])) == expected


@pytest.mark.parametrize(
    ("decoder", "pieces"),
    [
        (None, "abcdefgh"),
        (decoders.BPEDecoder(), ["a</w>", "b", "c</w>", "d", "e</w>"]),
        (decoders.WordPiece(), ["a", "##b", "c", "##d", "e", "."]),
        (decoders.Metaspace(), ["a", "▁b", "▁", "c▁d", "▁▁e"]),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]), ["a", "<0xC3>", "<0xA9>"]),
    ],
)
def test_texts_are_what_the_library_decodes_after_the_prompt(decoder, pieces):
    vocab = {piece: index for index, piece in enumerate(["<pad>", "<s>", "</s>", *pieces])}
    inner = Tokenizer(models.WordLevel(vocab, pieces[0]))
    inner.add_special_tokens(["<pad>", "<s>", "</s>"])
    if decoder is not None:
        inner.decoder = decoder
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    actual = HuggingFaceTokenizer(inner.to_str().encode(), names)
    prompts = [[3, 4, 3], [3], [1]]
    for prompt, result in zip(prompts, complete(prompts, SAMPLED, actual), strict=True):
        written = [token for token in result.tokens if token != 2]
        before = inner.decode(prompt)
        whole = inner.decode([*prompt, *written])
        assert result.text == whole.removeprefix(before).rstrip("\ufffd")
        assert whole.startswith(before)


# Rows


def test_bucket():
    assert [bucket(n) for n in (1, 16, 17, 100)] == [16, 16, 32, 128]
    assert [bucket(n, 6) for n in (1, 6, 7)] == [6, 6, 12]


def test_rows_end_one_by_one_and_the_call_ends_with_the_last():
    model, params = toy(16)
    rows = [Request([1], 3), Request([1, 4], 9)]
    config = replace(SAMPLED, temperature=0.01)
    params = params.at[..., 2].set(-1e9)  # no EOS
    tokens = np.concatenate(
        [w.tokens for w in generate_tokens(model, params, rows, config, tokenizer=LETTERS)], axis=1
    )
    assert ((tokens >= 0).sum(1) == [3, 9]).all()
    assert (tokens[0, 3:] == -1).all()
