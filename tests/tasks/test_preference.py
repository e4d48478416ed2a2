"""Preference: the loss starts at ln 2, and decreases as the chosen answer becomes more likely."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.parallel.mesh import use_mesh
from llmjax.tasks.examples import trainable
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.packing import shape_of
from llmjax.tasks.predict import compute_outputs, total_loss
from llmjax.tasks.preference import PreferenceTask
from task_models import LENGTH, arrays_of, eight_devices, opened, predicted, rows_of

DECODER = ModelConfig(num_decoder_layers=2, d_model=32, num_heads=2, d_ff=64)
CONFIG = PreferenceTask(beta=0.3)
EOS = BytesTokenizer().eos_id
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<eos>{% endfor %}" + (
    "{% if add_generation_prompt %}a:{% endif %}"
)
ROWS = rows_of(
    {"prompt": "Sky? ", "chosen": "blue", "rejected": "green"},
    {"prompt": "Two? ", "chosen": "yes, two", "rejected": "no"},
    {"prompt": "Hm? ", "chosen": "ok", "rejected": "what"},
)


@pytest.fixture(scope="module")
def started():
    """The task with the references of the initial model."""
    task, network = opened(CONFIG, ROWS, model=DECODER)
    params = jax.jit(network.init)(jax.random.key(1))
    params = jax.tree.map(lambda x: 3 * x, params)  # far from probability 1/2
    facts = task.reference(network.model, params, task.examples(ROWS), batch_size=1, mesh=None)
    return CONFIG.open(task.context, facts), network, params


def moved(params, key=5):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(key), len(leaves))
    noise = [0.05 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])


def likelihood(network, params, segment):
    logits = network.model.apply(params, jnp.array([segment.tokens]))[0]
    logs = jax.nn.log_softmax(logits)[jnp.arange(len(segment.tokens)), jnp.array(segment.targets)]
    return (logs * jnp.array(segment.weights)).sum()


def plain(task, network, params, examples, reference):
    """DPO by definition, example by example."""
    total = 0.0
    for example in examples:
        gains = [
            likelihood(network, params, segment) - likelihood(network, reference, segment)
            for segment in example.segments
        ]
        total -= jax.nn.log_sigmoid(task.config.beta * (gains[0] - gains[1]))
    return total


def test_only_the_answers_count():
    task, _ = opened(CONFIG, ROWS, model=DECODER)
    better, worse = task.examples(ROWS)[0].segments
    assert list(better.tokens[1:]) == [*b"Sky? blue"]
    assert [t for t, w in zip(better.targets, better.weights, strict=True) if w] == [*b"blue", EOS]
    assert [t for t, w in zip(worse.targets, worse.weights, strict=True) if w] == [*b"green", EOS]


MESSAGES = [{"role": "user", "content": "Sky?"}]
BLUE, GREEN = ({"role": "assistant", "content": text} for text in ("blue", "green"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": MESSAGES, "chosen": "blue", "rejected": "green"},
        {"prompt": MESSAGES, "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": "Sky?", "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": "Sky?", "chosen": [*MESSAGES, BLUE], "rejected": [*MESSAGES, GREEN]},
        {"chosen": [*MESSAGES, BLUE], "rejected": [*MESSAGES, GREEN]},
    ],
)
def test_messages_are_spelt_by_the_template(row):
    rows = rows_of(row)
    task, _ = opened(CONFIG, rows, BytesTokenizer(chat_template=TEMPLATE), DECODER)
    (example,) = task.examples(rows)
    for segment, text in zip(example.segments, (b"blue", b"green"), strict=True):
        assert list(segment.tokens) == [*b"u:Sky?", EOS, *b"a:", *text]
        counted = [t for t, w in zip(segment.targets, segment.weights, strict=True) if w]
        assert counted == [*text, EOS]


def test_at_step_0_the_loss_is_the_logarithm_of_2(started):
    task, network, params = started
    examples = task.examples(ROWS)
    for rows in (1, 3):
        wide = replace(task, context=task.context._replace(length=LENGTH * rows))
        sums = total_loss(wide, network.model, params, examples, 1, None)
        assert sums.weight == 3
        assert sums.loss == pytest.approx(math.log(2), abs=1e-6)
    mesh = eight_devices()
    with use_mesh(mesh):
        shared = jax.device_put(params, jax.tree.map(lambda x: x.sharding, network_params(network)))
    sharded = total_loss(task, network.model, shared, examples, 8, mesh)
    assert sharded.loss == pytest.approx(math.log(2), abs=1e-6)


def network_params(network):
    return network.abstract_params()


def test_the_loss_and_its_derivative_are_the_definitions(started):
    task, network, reference = started
    params = moved(reference)
    examples = task.examples(ROWS)
    shape = shape_of(examples, 2 * LENGTH, encodes=False)
    arrays = arrays_of(examples, shape)
    assert len(arrays["inputs"]) < 3  # examples share rows

    def loss(params):
        return task.loss(network.model, params, arrays, None).objective

    def definition(params):
        return plain(task, network, params, examples, reference)

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    expected_value, expected_gradient = jax.jit(jax.value_and_grad(definition))(params)
    assert float(value) == pytest.approx(float(expected_value), rel=1e-4)
    assert abs(float(value) / 3 - math.log(2)) > 1e-3
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True)
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, rtol=5e-3, atol=2e-4)


def test_a_step_makes_the_better_answer_likelier(started):
    task, network, params = started
    examples = task.examples(ROWS)
    shape = shape_of(examples, LENGTH, encodes=False)
    arrays = arrays_of(examples, shape)
    gradient = jax.jit(jax.grad(lambda p: task.loss(network.model, p, arrays, None).objective))(
        params
    )
    after = jax.tree.map(lambda x, g: x - 1e-3 * g, params, gradient)
    predictions = predicted(task, network, after, ROWS)
    assert np.mean([prediction["margin"] for prediction in predictions]) > 0
    measures = task.metrics(ROWS, predictions)
    assert measures["margin"].value > 0
    assert measures["loss"].value < math.log(2)


@pytest.mark.once
def test_packing_changes_nothing(started):
    task, network, params = started
    examples = task.examples(ROWS)
    wide = replace(task, context=task.context._replace(length=3 * LENGTH))
    packed = compute_outputs(wide, network.model, params, examples, 1, None)
    for example, output in zip(examples, packed, strict=True):
        expected = [float(likelihood(network, params, segment)) for segment in example.segments]
        np.testing.assert_allclose(output["log_likelihoods"], expected, rtol=1e-5)


def test_references_are_stored_and_reused(started):
    task, network, params = started
    facts = TaskMetadata.from_dict(task.metadata.to_dict())
    assert facts == task.metadata
    assert len(facts.references) == 3
    again = CONFIG.open(task.context, facts).examples(ROWS[::-1])
    result = {example.row: example for example in task.examples(ROWS)}
    for example in again:
        np.testing.assert_array_equal(example.target, result[2 - example.row].target)
        assert example.details is True
    other = rows_of({"prompt": "New? ", "chosen": "a", "rejected": "b"})
    (prediction,) = predicted(task, network, params, other)
    assert not prediction["against_reference"]
    assert prediction["margin"] == pytest.approx(
        0.3 * (prediction["chosen"] - prediction["rejected"]), rel=1e-5
    )
    more = task.examples(other)
    both = task.reference(network.model, params, more, batch_size=1, mesh=None)
    assert len(both.references) == 4


def test_equal_answers_teach_nothing_and_are_named(caplog):
    same = {"prompt": "Hm? ", "chosen": "c" * 90, "rejected": "c" * 91}  # beyond the row
    rows = rows_of(ROWS[0].values, {**ROWS[1].values, "rejected": "yes, two"}, same)
    task, network = opened(CONFIG, rows, model=DECODER)
    examples = task.examples(rows)
    assert [example.weight for example in examples] == [1, 0, 0]
    assert "2 of 3 pairs have answers that are equal" in caplog.text
    assert "(the first: table line 2)" in caplog.text
    assert [example.row for example in trainable(task, rows, examples)] == [0]
    params = jax.jit(network.init)(jax.random.key(1))
    assert total_loss(task, network.model, params, examples, 1, None).weight == 1
    with pytest.raises(UserError, match="all 2 examples have weight 0"):
        trainable(task, rows, examples[1:])


def test_long_answers_are_cut_to_half_a_row(caplog):
    rows = rows_of({"prompt": "p" * 90, "chosen": "c" * 90, "rejected": "r"})
    task, _ = opened(CONFIG, rows, model=DECODER)
    (example,) = task.examples(rows)
    assert example.length <= LENGTH
    assert all(sum(segment.weights) for segment in example.segments)
    assert "1 of 1 pairs have an answer cut to 24 tokens" in caplog.text


def test_a_row_that_the_template_refuses_is_named():
    refuses = "{% if messages[0].role != 'user' %}{{ raise_exception('users first') }}{% endif %}"
    with_system = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    rows = [
        {"prompt": item, "chosen": [BLUE], "rejected": [GREEN]} for item in (MESSAGES, with_system)
    ]
    tokenizer = BytesTokenizer(chat_template=refuses + TEMPLATE)
    task, _ = opened(CONFIG, rows_of(*rows), tokenizer, DECODER)
    line = "table line 2: the chat template: users first; fix or remove the row"
    with pytest.raises(UserError, match=line):
        task.examples(rows_of(*rows))


def test_errors_are_reported():
    with pytest.raises(UserError, match="needs a decoder-only model"):
        opened(CONFIG, ROWS)
    task, _ = opened(CONFIG, ROWS, model=DECODER)
    with pytest.raises(UserError, match="has no column 'rejected'"):
        task.examples(rows_of({"prompt": "a", "chosen": "b"}))
    with pytest.raises(UserError, match="does not end with an assistant message"):
        task.examples(rows_of({"prompt": "a", "chosen": MESSAGES, "rejected": "b"}))
