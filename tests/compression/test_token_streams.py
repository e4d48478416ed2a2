"""Archives and scores agree; an independent decoder reads a stream from dumped frequencies."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compress_runs import TEXTS, files
from reference import decode_stream

from llmjax.compression.codec import CodecStepper, StreamLayout
from llmjax.compression.compress import compress
from llmjax.compression.decompress import inspect
from llmjax.compression.plan import plan_streams
from llmjax.compression.streams import decode_tokens, determinism_hash, encode_tokens
from llmjax.data.text.corpus import Document
from llmjax.errors import UserError
from llmjax.evaluation.evaluate import evaluate
from llmjax.inference.language_model import load
from llmjax.scoring.documents import score_documents


def silent(share, size):
    pass


@pytest.fixture(scope="module")
def lm(run):
    return load(run, dtype="float32")


def test_a_stream_is_read_by_plain_integers(lm):
    """Decodes with Python integers, given only the frequencies that the steps compute."""
    stepper, tokens = (
        CodecStepper(lm, StreamLayout(1, 16, 8)),
        np.array(list(b"plain bytes"), np.int32),
    )
    encoded = encode_tokens(stepper, tokens, silent)
    tables, nothing = [], np.zeros(1, np.uint32)
    cache, inputs = None, jnp.full(1, lm.tokenizer.bos_id, jnp.int32)
    for token, step in zip(tokens, stepper.positions(len(tokens)), strict=True):
        if cache is None:
            cache = stepper.empty(step.slots)
        elif cache.length != step.slots:
            cache = cache.grown(step.slots)
        rows = []
        for symbol in range(256):
            copy = jax.tree.map(jnp.copy, cache)
            known = np.array([symbol], np.int32)
            interval, after = stepper.step(copy, inputs, step.position, known, nothing, False)
            rows.append((int(interval.start[0]), int(interval.freq[0])))
        tables.append(rows)
        cache, inputs = after, jnp.asarray([token])
    assert all(rows[0][0] == 0 and sum(f for _, f in rows) == 1 << 26 for rows in tables)
    symbols, _ = decode_stream(encoded.streams[0], len(tokens), tables.__getitem__)
    assert bytes(symbols) == b"plain bytes"


@pytest.mark.parametrize(
    ("streams", "context", "stride", "groups"),
    [(1, 64, 32, 1), (3, 16, 4, 1), (4, 32, 32, 1), (6, 16, 12, 3)],
)
def test_the_cost_is_what_scoring_says_of_the_same_windows(lm, streams, context, stride, groups):
    data = files()["long"]
    tokens = np.frombuffer(data, np.uint8).astype(np.int32)
    layout = StreamLayout(streams, context, stride, groups)
    encoded = encode_tokens(CodecStepper(lm, layout), tokens, silent)
    parts = np.split(tokens, np.cumsum(layout.lengths(len(tokens)))[:-1])
    score = score_documents(
        lm.model,
        lm.params,
        lm.tokenizer,
        [Document(part, len(part)) for part in parts],
        context=context,
        stride=stride,
    )
    assert encoded.bits.sum() == pytest.approx(score.nats / math.log(2), rel=1e-3)
    overhead = 8 * sum(map(len, encoded.streams)) - encoded.bits.sum()
    assert 0 < overhead < 20 * streams + 1e-3 * encoded.bits.sum()


def test_evaluate_and_archive_agree(run, lm, tmp_path):
    path = tmp_path / "text"
    path.write_bytes((TEXTS[0] + TEXTS[2]).encode() * 6)
    windows = {"context": 32, "stride": 8, "dtype": "float32"}
    result = compress(
        run, path, tmp_path / "a", streams=1, verify=False, compare=False, fallback=False, **windows
    )
    score = evaluate(run, data=path, **windows).score
    end = lm.score(path.read_text(), context=32, stride=8).nats[-1]  # of the text, not in archives
    body = 8 * (result.archive_bytes - result.header_bytes - 52)
    assert body == pytest.approx((score.nats - end) / math.log(2), rel=0.005)


@pytest.mark.once
def test_streams_of_the_default_are_the_documents_of_an_evaluation(run, tmp_path):
    """As users do it: bfloat16, as many streams as are chosen."""
    path, lm = tmp_path / "text", load(run, dtype="bfloat16")
    path.write_bytes((TEXTS[0] + TEXTS[2]).encode() * 20)
    result = compress(run, path, tmp_path / "a", verify=False, compare=False, fallback=False)
    assert result.streams > 1
    layout = StreamLayout(result.streams, result.context, result.stride)
    tokens = np.frombuffer(path.read_bytes(), np.uint8).astype(np.int32)
    parts = np.split(tokens, np.cumsum(layout.lengths(len(tokens)))[:-1])
    documents = [Document(part, len(part)) for part in parts]
    windows = {"context": result.context, "stride": result.stride}
    score = score_documents(lm.model, lm.params, lm.tokenizer, documents, **windows)
    assert result.costs.bits == pytest.approx(score.nats / math.log(2), rel=2e-3)
    # Beside the streams' bits: header, checksums, and four bytes or so of each stream.
    overhead = result.archive_bytes - result.header_bytes - 41 - result.costs.bits / 8
    assert 0 < overhead < 10 + 4 * result.streams + 1e-3 * result.archive_bytes


@pytest.mark.parametrize("layout", [StreamLayout(5, 16, 5), StreamLayout(8, 16, 12, 2)])
def test_decoding_finds_the_tokens(lm, layout):
    stepper = CodecStepper(lm, layout)
    for count in (1, 4, 5, 6, 83, 130):
        tokens = np.random.default_rng(count).integers(0, 256, count).astype(np.int32)
        encoded = encode_tokens(stepper, tokens, silent)
        assert (decode_tokens(stepper, encoded.streams, count, silent) == tokens).all()
        assert len(encoded.bits) == len(encoded.positions) == count


def test_the_determinism_check_distinguishes_layouts_and_weights(lm, runs):
    layouts = [
        StreamLayout(2, 16, 8),
        StreamLayout(3, 16, 8),
        StreamLayout(2, 32, 8),
        StreamLayout(2, 16, 4),
    ]
    layouts.append(StreamLayout(2, 16, 8, 2))
    hashes = [
        determinism_hash(CodecStepper(lm, layout), windows)
        for layout in layouts
        for windows in (False, True)
    ]
    assert len(set(hashes)) == len(hashes)
    assert determinism_hash(CodecStepper(lm, layouts[0]), True) == hashes[1]


def test_groups_code_what_one_would(lm):
    """Their streams are the same, and so is what these cost, up to another program's rounding."""
    tokens = np.random.default_rng(0).integers(0, 256, 90).astype(np.int32)
    single, split = (
        encode_tokens(CodecStepper(lm, StreamLayout(4, 16, 8, n)), tokens, silent) for n in (1, 2)
    )
    np.testing.assert_array_equal(single.positions, split.positions)
    np.testing.assert_allclose(single.bits, split.bits, atol=1e-3)


def test_a_group_that_fails_ends_the_others(lm):
    """So does Ctrl-C, which reaches the thread that waits for them."""
    steps = []

    class Failing:
        def query(self, step):
            raise UserError("stream 0", "fails")

    class Going:
        def query(self, step):
            return np.zeros(2, np.int32), np.zeros(2, np.uint32), False

        def receive(self, step, interval):
            steps.append(np.asarray(interval.symbol))

        def history(self, start, end):
            return np.zeros((2, end - start), np.int32)

    with pytest.raises(UserError, match="stream 0"):
        CodecStepper(lm, StreamLayout(4, 16, 8, 2)).run(100_000, [Failing(), Going()])
    assert len(steps) < 100_000


def test_progress_is_that_of_all_groups(lm):
    reports = []
    tokens = np.zeros(4 * 40, np.int32)
    stepper = CodecStepper(lm, StreamLayout(4, 16, 8, 2))
    encoded = encode_tokens(stepper, tokens, lambda share, size: reports.append((share, size)))
    assert reports[-1] == (
        pytest.approx(32 / 40),
        pytest.approx(encoded.bits[:128].sum() / 8, rel=0.3),
    )
    assert all(0 < share <= 1 for share, _ in reports)


def test_an_input_that_begins_with_no_text_gets_streams(lm):
    assert plan_streams(lm, 0, 100 << 20).layout.streams > 64
    assert plan_streams(lm, 0, 100).layout.streams == 1


def test_more_streams_than_an_archive_may_have_are_refused(lm):
    for streams in (0, 1 << 17):
        with pytest.raises(UserError, match=r"must be from 1 to 65536"):
            plan_streams(lm, 100, 100, streams=streams)


@pytest.mark.once
def test_large_inputs_get_streams_and_small_ones_context(run, tmp_path):
    path = tmp_path / "text"
    for size, streams in ((20, 1), (900, 5), (6000, 32)):
        path.write_bytes((TEXTS[2] * 200).encode()[:size])
        archive = tmp_path / f"{size}"
        compress(run, path, archive, verify=False, compare=False, dtype="float32")
        assert inspect(archive)["streams"] == streams
