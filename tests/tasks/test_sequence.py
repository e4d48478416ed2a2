"""Sequence-to-sequence: inputs, weights, learning and generation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.parallel.mesh import use_mesh
from llmjax.tasks.packing import shape_of
from llmjax.tasks.predict import generator, total_loss
from llmjax.tasks.sequence import SequenceTask
from llmjax.tasks.task import PredictionData
from task_models import LENGTH, arrays_of, eight_devices, opened, rows_of, trained

SIZES = {"d_model": 32, "num_heads": 2, "d_ff": 64}
BOTH = ModelConfig(num_encoder_layers=1, num_decoder_layers=1, **SIZES)
DECODER = ModelConfig(num_decoder_layers=2, **SIZES)
MODELS = pytest.mark.parametrize("model", [BOTH, DECODER], ids=["both", "decoder"])
CONFIG = SequenceTask(prompt="{}>", max_new_tokens=8)
ROWS = rows_of(
    {"source": "one", "target": "eins"},
    {"source": "two", "target": "zwei"},
    {"source": "three", "target": "drei"},
)
BOS, EOS = BytesTokenizer().bos_id, BytesTokenizer().eos_id


def test_an_encoder_decoder_encodes_the_source_and_predicts_the_target():
    task, _ = opened(CONFIG, ROWS, model=BOTH)
    (segment,) = task.examples(ROWS)[0].segments
    tokenizer = task.context.tokenizer
    assert list(segment.source) == tokenizer.wrap([*b"one>"])[0]
    assert list(segment.tokens) == [BOS, *b"eins"]
    assert list(segment.targets) == [*b"eins", EOS]
    assert segment.weights == [1] * 5


def test_a_decoder_has_loss_on_the_target_only():
    task, _ = opened(CONFIG, ROWS, model=DECODER)
    example = task.examples(ROWS)[0]
    (segment,) = example.segments
    assert list(segment.tokens) == [BOS, *b"one>eins"]
    assert list(segment.targets) == [*b"one>eins", EOS]
    assert segment.weights == [0] * 4 + [1] * 5
    assert example.details == [BOS, *b"one>"]


@MODELS
def test_what_is_too_long_is_cut(model, caplog):
    rows = rows_of(
        {"source": "s" * 30, "target": "t" * 30},
        {"source": "s" * 90, "target": "t" * 10},
        {"source": "s", "target": "t" * 90},
        {"source": "s" * 90},
    )
    task, _ = opened(CONFIG, rows[:3], model=model)
    examples = task.examples(rows)
    assert "texts are cut to 48 tokens" in caplog.text
    for example, row in zip(examples, rows, strict=True):
        (segment,) = example.segments
        assert example.length <= LENGTH
        assert example.source_length <= LENGTH
        kept = sum(weight > 0 for weight in segment.weights)
        least = LENGTH // 2 if model is DECODER else LENGTH - 1
        assert kept >= min(least, len(row.values.get("target", "")))
    assert sum(examples[3].segments[0].weights) == 0
    if model is DECODER:
        assert examples[1].segments[0].tokens[-11:] == [*b">tttttttttt"]


@pytest.fixture(scope="module", params=[BOTH, DECODER], ids=["both", "decoder"])
def started(request):
    task, network = opened(CONFIG, ROWS, model=request.param)
    return task, network, jax.jit(network.init)(jax.random.key(1))


def test_the_loss_is_that_of_the_model(started):
    task, network, params = started
    example = task.examples(ROWS)[1]
    (segment,) = example.segments
    given = {"encoder_tokens": jnp.array([segment.source])} if segment.source else {}
    logits = network.model.apply(params, jnp.array([segment.tokens]), **given)[0]
    logs = np.asarray(jax.nn.log_softmax(logits))
    log_probabilities = logs[np.arange(example.length), segment.targets]
    nats = -(log_probabilities * np.array(segment.weights)).sum()
    sums = total_loss(task, network.model, params, [example], 1, None)
    assert sums.weight == 5
    assert sums.nll == pytest.approx(nats, rel=1e-5)


def test_neighbours_in_a_row_and_devices_change_nothing(started):
    task, network, params = started
    examples, model = task.examples(ROWS), network.model
    packed = total_loss(task, model, params, examples, 2, None)
    alone = [total_loss(task, model, params, [example], 1, None) for example in examples]
    assert packed.nll == pytest.approx(sum(item.nll for item in alone), rel=1e-5)
    mesh = eight_devices()
    with use_mesh(mesh):
        shared = jax.jit(network.init)(jax.random.key(1))
    sharded = total_loss(task, model, shared, examples, 8, mesh)
    assert sharded.nll == pytest.approx(packed.nll, rel=1e-5)


def test_smoothing_changes_the_objective_and_not_the_nats(started):
    task, network, params = started
    config = SequenceTask(prompt="{}>", label_smoothing=0.2)
    smooth, _ = opened(config, ROWS, model=task.context.model)
    examples = task.examples(ROWS)
    encodes = network.model.config.is_encoder_decoder
    arrays = arrays_of(examples, shape_of(examples, LENGTH, encodes=encodes))
    plain, other = (item.loss(network.model, params, arrays, None) for item in (task, smooth))
    assert plain.sums["loss"].total == pytest.approx(float(other.sums["loss"].total), rel=1e-6)
    assert plain.objective == pytest.approx(float(plain.sums["loss"].total), rel=1e-6)
    assert abs(float(other.objective - other.sums["loss"].total)) > 1e-3


@MODELS
def test_pairs_are_learned_and_generated(model):
    task, network = opened(CONFIG, ROWS, model=model)
    examples = task.examples(ROWS)
    params = trained(task, network, examples, 150, 1e-2)
    write = generator(network.model, params, task.context.tokenizer, None, 4)
    predictions = task.predictions(PredictionData(ROWS, examples, [{}] * 3, write))
    assert [prediction["text"] for prediction in predictions] == ["eins", "zwei", "drei"]
    measures = task.metrics(ROWS, predictions)
    assert measures["exact_match"].value == 1
    assert "BLEU" in measures.signature


@pytest.mark.parametrize(("tokenize", "bleu"), [("13a", 0.0), ("zh", 66.87), ("char", 66.87)])
def test_bleu_uses_the_configured_tokenizer(tokenize, bleu):
    rows = rows_of({"source": "hello", "target": "你好世界啊"})
    task, _ = opened(SequenceTask(bleu_tokenize=tokenize), rows, model=DECODER)
    result = task.metrics(rows, [{"text": "你好世界吗"}])
    assert result["bleu"].value == pytest.approx(bleu, abs=0.01)
    assert f"tok:{tokenize}|" in result.signature


def test_errors_are_reported():
    with pytest.raises(UserError, match="an encoder cannot generate text"):
        opened(CONFIG, ROWS)
    with pytest.raises(UserError, match="has no column 'target'"):
        opened(CONFIG, rows_of({"source": "one"}), model=DECODER)
