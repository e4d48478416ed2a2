"""Scores against a token-by-token computation; windows, packing, denominators, meshes."""

import functools
import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data.text.corpus import Document
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.scoring.config import EvaluationConfig, evaluation_problems
from llmjax.scoring.documents import score_documents, score_streams, score_text
from llmjax.scoring.windows import cut_windows, pack
from toy import LetterTokenizer, log_softmax
from untrained import drawn

BYTES = BytesTokenizer()
CONTEXT = 16
CONFIG = ModelConfig(
    vocab_size=264,
    max_length=CONTEXT,
    d_model=16,
    num_decoder_layers=2,
    num_heads=2,
    positions="learned",
)
MODEL = Model(CONFIG)
TEXTS = ["It is.", "", "Crème 🙂 漢字", "a" * 15, "b" * 16, "The quick brown fox, and so on. " * 2]


@functools.cache
def params(mesh=None):
    return drawn(MODEL, mesh=mesh)


@functools.cache
def apply():
    return jax.jit(MODEL.apply)


def document(text, tokenizer=BYTES):
    ids = [*tokenizer.encode(text), tokenizer.eos_id]
    return Document(np.array(ids, np.int32), len(text.encode()))


DOCUMENTS = [document(text) for text in TEXTS]


def naive_nats(tokens, context, stride):
    """Nats of each token, one call per token: float64 log-softmax, later tokens zero."""
    stream = [BYTES.bos_id, *tokens]
    nats = []
    for target in range(1, len(stream)):
        # The first window has targets 1 to context; each later one starts `stride` further on.
        start = max(0, math.ceil((target - context) / stride)) * stride
        row = np.zeros((1, CONTEXT), np.int32)
        row[0, : target - start] = stream[start:target]
        logits = np.asarray(apply()(params(), row), np.float64)[0, target - start - 1]
        nats.append(-log_softmax(logits)[stream[target]])
    return nats


def score(documents=DOCUMENTS, **how):
    mesh = how.get("mesh")
    return score_documents(MODEL, params(mesh), BYTES, documents, **{"batch_size": 3} | how)


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 8), (16, 1), (7, 3), (1, 1)])
def test_scores_equal_a_computation_token_by_token(context, stride):
    result = score(context=context, stride=stride)
    expected = [naive_nats(d.tokens, context, stride) for d in DOCUMENTS]
    assert result.nats == pytest.approx(math.fsum(map(math.fsum, expected)), rel=1e-6)
    assert result.tokens == sum(len(d.tokens) for d in DOCUMENTS)
    assert result.bytes == sum(len(text.encode()) for text in TEXTS)
    assert result.documents == len(TEXTS)


def test_figures_follow_from_the_sums():
    result = score()
    assert result.loss_per_token == result.nats / result.tokens
    assert result.perplexity == pytest.approx(math.exp(result.nats / result.tokens))
    assert result.bits_per_byte == pytest.approx(result.nats / math.log(2) / result.bytes)
    assert replace(result, nats=1e6).perplexity == math.inf


def test_sums_by_position_add_up():
    result = score(context=16, stride=4)
    assert result.nats_at.sum() == pytest.approx(result.nats)
    assert result.tokens_at.sum() == result.tokens
    assert result.bytes_at.sum() == result.bytes
    # One token per document is predicted from BOS alone.
    assert result.tokens_at[0] == len(TEXTS)
    first = math.fsum(naive_nats(d.tokens[:1], 16, 4)[0] for d in DOCUMENTS)
    assert result.nats_at[0] == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batches_change_nothing(batch_size):
    assert score(batch_size=batch_size).nats == pytest.approx(score().nats, rel=1e-6)
    assert score(DOCUMENTS[::-1], batch_size=batch_size).nats == pytest.approx(
        score().nats, rel=1e-6
    )


@pytest.mark.parametrize(
    "sizes", [{"data": 4, "fsdp": 2}, {"data": 2, "sequence": 2, "tensor": 2}, {"fsdp": 8}]
)
def test_meshes_change_nothing(sizes):
    mesh = make_mesh(MeshConfig(**{"data": 1, "fsdp": 1} | sizes))
    result = score(mesh=mesh, stride=5)
    assert result.nats == pytest.approx(score(stride=5).nats, rel=1e-6)
    assert result.tokens == score(stride=5).tokens


def test_pieces_of_a_document_count_as_one_document():
    full = DOCUMENTS[-1]
    cuts = [0, 1, 1, 20, 37, len(full.tokens)]
    pieces = [Document(full.tokens[a:b], 0) for a, b in itertools.pairwise(cuts)]
    pieces[0] = replace(pieces[0], bytes=full.bytes)
    result = score_streams(MODEL, params(), BYTES, [pieces], (16, 8), 3, None)
    assert result == score([full], context=16, stride=8)


def test_the_end_of_a_text_costs_bits_but_no_bytes():
    empty, one = document(""), document("x")
    both = score([empty, one])
    assert both.bytes == 1
    assert both.tokens == 3
    assert both.nats == pytest.approx(
        sum(sum(naive_nats(d.tokens, 16, 8)) for d in (empty, one)), rel=1e-6
    )
    with pytest.raises(UserError, match="is empty; give at least one byte"):
        score([empty])


def test_every_tokenizer_has_the_same_denominator():
    text = "cab ba🙂 abc\n" * 3
    letters = LetterTokenizer(["a", "b", "c", "ab", "cab", " ", "\n", "🙂"])
    chars = LetterTokenizer(["a", "b", "c", " ", "\n", "🙂"])
    scores = [
        score_documents(MODEL, params(), tokenizer, [document(text, tokenizer)])
        for tokenizer in (BYTES, letters, chars)
    ]
    assert {result.bytes for result in scores} == {len(text.encode())}
    assert len({result.tokens for result in scores}) == 3
    assert all(result.bytes_at.sum() == len(text.encode()) for result in scores)


@pytest.mark.parametrize("text", ["é", "Crème 🙂 漢字", "x" * 100, "<bos>"])
def test_score_of_a_text(text):
    result = score_text(MODEL, params(), BYTES, text, context=16, stride=4)
    assert result.tokens.tolist() == [*BYTES.encode(text), BYTES.eos_id]
    assert result.bytes.sum() == len(text.encode()) == result.total.bytes
    np.testing.assert_allclose(result.nats, naive_nats(result.tokens, 16, 4), rtol=1e-4, atol=1e-5)
    full = score([document(text)], context=16, stride=4)
    assert result.bits_per_byte == pytest.approx(full.bits_per_byte, rel=1e-6)
    assert (result.total.tokens, result.total.documents) == (full.tokens, 1)


def test_what_does_not_suit_the_model_is_refused():
    for how, thing in (
        ({"context": 17}, "context 17"),
        ({"context": 0}, "context 0"),
        ({"context": 8, "stride": 9}, "stride 9"),
        ({"stride": 0}, "stride 0"),
    ):
        with pytest.raises(UserError, match=thing):
            score(**how)
    encoder = Model(replace(CONFIG, num_encoder_layers=1, num_decoder_layers=0))
    with pytest.raises(UserError, match="causal decoder"):
        score_documents(encoder, {}, BYTES, DOCUMENTS)
    with pytest.raises(UserError, match="is empty; give at least one byte"):
        score_text(MODEL, params(), BYTES, "")
    wrong = EvaluationConfig(every=-1, context=4, stride=5, batch_size=0, max_tokens=0)
    assert len(evaluation_problems(wrong)) == 4
    assert evaluation_problems(EvaluationConfig()) == []


# Windows and packing


@pytest.mark.parametrize("length", range(0, 12))
def test_windows_count_each_target_once_with_the_stated_context(length):
    tokens = np.arange(1, length + 1, dtype=np.int32)
    for context in range(1, 6):
        for stride in range(1, context + 1):
            result = list(cut_windows([tokens[:3], tokens[3:5], tokens[5:]], 0, context, stride))
            counted = np.concatenate([[], *(window.counted for window in result)])
            np.testing.assert_array_equal(counted, tokens)
            for window in result:
                assert len(window) <= context
                assert len(window.counted) > 0
                # The whole document before the first counted target, or the guaranteed context.
                inputs = window.skip + 1
                assert inputs == window.counted[0] or inputs == context - stride + 1
                steps = np.diff(window.stream)
                assert (steps == 1).all(), "not consecutive"


def test_packed_rows_hold_every_window_once_and_apart():
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 99, n).astype(np.int32) for n in rng.integers(1, 40, 50)]
    result = [w for d in documents for w in cut_windows([d], 0, 12, 5)]
    seen, batches = [], 0
    for batch, slots in pack(result, 4, 12):
        batches += 1
        cover = np.zeros((4, 12), np.int64)
        for slot in slots:
            index = slice(slot.start, slot.start + len(slot.window))
            cover[slot.row, index] += 1
            np.testing.assert_array_equal(batch["inputs"][slot.row, index], slot.window.stream[:-1])
            np.testing.assert_array_equal(slot.read(batch["targets"]), slot.window.counted)
            assert (slot.read(batch["weights"]) == 1).all()
            assert batch["positions"][slot.row, index].tolist() == list(range(len(slot.window)))
            assert len(set(batch["segments"][slot.row, index].tolist())) == 1
            seen.append(slot.window)
        np.testing.assert_array_equal(cover, batch["segments"] > 0)
        assert batch["weights"].sum() == sum(len(slot.window.counted) for slot in slots)
        for row in range(4):
            numbers = batch["segments"][row][batch["segments"][row] > 0]
            assert len(set(numbers.tolist())) == sum(slot.row == row for slot in slots)
    assert [id(window) for window in seen] == [id(window) for window in result]
    assert batches < len(result) / 4


def test_scoring_uses_one_program_for_all_batches():
    from llmjax.scoring.documents import document_nats

    score(batch_size=2)
    before = document_nats._cache_size()
    score([document("z" * n) for n in range(1, 60)], batch_size=2)
    assert document_nats._cache_size() == before


def test_bfloat16_parameters_are_scored():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())
    model = Model(CONFIG, ComputeConfig(dtype="bfloat16"))
    result = score_documents(model, half, BYTES, DOCUMENTS)
    assert result.nats == pytest.approx(score().nats, rel=0.02)


# Sums per document


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 4), (7, 3)])
def test_sums_per_document_do_not_depend_on_other_documents(context, stride):
    result = score(context=context, stride=stride)
    empty = Document(np.zeros(0, np.int32), 0)
    for documents, full in ((DOCUMENTS, result), ([empty, *DOCUMENTS, empty], None)):
        each = score(documents, context=context, stride=stride).per_document
        kept = [k for k, item in enumerate(documents) if len(item.tokens)]
        alone = [naive_nats(documents[k].tokens, context, stride) for k in kept]
        np.testing.assert_allclose(each.nats[kept], [math.fsum(item) for item in alone], rtol=1e-5)
        assert each.tokens.tolist() == [len(item.tokens) for item in documents]
        assert each.bytes.tolist() == [item.bytes for item in documents]
        if full is not None:
            assert each.nats.sum() == pytest.approx(full.nats, rel=1e-12)


def test_intervals_come_from_drawing_documents():
    result = score()
    figures = result.intervals()
    assert list(figures) == ["loss", "perplexity", "bits_per_byte"]
    values = (result.loss_per_token, result.perplexity, result.bits_per_byte)
    for (low, high), value in zip(figures.values(), values, strict=True):
        assert low < value < high
    drawn = np.random.default_rng(7).integers(0, len(TEXTS), (20000, len(TEXTS)))
    nats, size = result.per_document.nats[drawn].sum(1), result.per_document.bytes[drawn].sum(1)
    expected = np.percentile(nats[size > 0] / size[size > 0] / math.log(2), [2.5, 97.5])
    np.testing.assert_allclose(figures["bits_per_byte"], expected, rtol=0.05)
    assert score(DOCUMENTS[:1]).intervals() == {}, "one document says nothing of others"
