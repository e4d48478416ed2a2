"""Chat: the loss covers exactly the assistant's tokens, with any template."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.parallel.mesh import use_mesh
from llmjax.tasks.chat import ChatTask
from llmjax.tasks.conversations import PLAIN, ChatEncoder
from llmjax.tasks.examples import trainable
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.predict import compute_outputs, generator, total_loss
from llmjax.tasks.task import PredictionData
from task_models import eight_devices, opened, predicted, rows_of, trained

DECODER = ModelConfig(num_decoder_layers=2, d_model=32, num_heads=2, d_ff=64)
CONFIG = ChatTask()
LENGTH = 160
EOS = BytesTokenizer().eos_id
SPELT = {EOS: "<eos>"}
# Ends the assistant's turn with a special token followed by white space.
MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Drops earlier answers from later prompts, as templates of reasoning models drop thoughts.
FORGETS = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.role != 'assistant' or loop.last %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def talk(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


ROWS = rows_of(
    {"messages": talk("Hi", "Hello!", "Bye", "See you")},
    {"messages": [{"role": "system", "content": "Be brief."}, *talk("Why?", "Who knows")]},
)


def target_text(segment):
    """The text of the targets with weight, spans joined by "|"."""
    result, before = "", 0.0
    for target, weight in zip(segment.targets, segment.weights, strict=True):
        if weight:
            result += ("" if before or not result else "|") + SPELT.get(target, chr(target % 256))
        before = weight
    return result


@pytest.mark.parametrize("template", [None, MARKED, PLAIN])
def test_only_the_assistants_turns_have_weight(template):
    task, _ = opened(CONFIG, ROWS, BytesTokenizer(chat_template=template), DECODER, LENGTH)
    first, second = task.examples(ROWS)
    assert target_text(first.segments[0]) == "Hello!<eos>|See you<eos>"
    assert target_text(second.segments[0]) == "Who knows<eos>"
    assert (first.row, second.row) == (0, 1)
    segment = first.segments[0]
    assert list(segment.tokens[1:]) == list(segment.targets[:-1])


def test_answers_stand_behind_what_the_model_reads_before_it_answers():
    tokenizer = BytesTokenizer(chat_template=MARKED)
    messages = ROWS[0].values["messages"]
    with ChatEncoder(tokenizer, MARKED) as encoder:
        (chat,) = encoder.encode(messages)
        for (first, end), turn in zip(chat.spans, (1, 3), strict=True):
            assert chat.tokens[:first] == encoder.prompt(messages[:turn])
            assert chat.tokens[end - 1] == EOS
        (last,) = encoder.encode(messages, last=True)
        assert last.spans == chat.spans[1:]


def test_a_template_that_forgets_makes_an_example_of_each_answer():
    task, _ = opened(CONFIG, ROWS, BytesTokenizer(chat_template=FORGETS), DECODER, LENGTH)
    first, second, third = task.examples(ROWS)
    assert [item.row for item in (first, second, third)] == [0, 0, 1]
    assert target_text(first.segments[0]) == "Hello!"
    assert target_text(second.segments[0]) == "See you"
    read = bytes(second.segments[0].tokens).decode()
    assert read == "[user]Hi[assistant][user]Bye[assistant]See yo"


def test_long_conversations_keep_what_counts(caplog):
    rows = rows_of(
        {"messages": talk("Hi", "a" * 300)},
        {"messages": talk("q" * 300, "answer")},
        {"messages": talk("Hi", "fine", "q" * 300, "lost")},
    )
    task, _ = opened(CONFIG, rows, BytesTokenizer(chat_template=MARKED), DECODER, LENGTH)
    examples = task.examples(rows)
    assert "3 of 3 conversations are cut to 160 tokens" in caplog.text
    assert [example.length for example in examples] == [LENGTH] * 3
    first, second, third = (target_text(example.segments[0]) for example in examples)
    assert set(first) == {"a"}
    assert second == "answer<eos>"
    assert third == "fine<eos>"


def test_conversations_without_an_answer_within_the_length_are_left_out_by_name(caplog):
    rows = rows_of(
        {"messages": talk("Hi", "fine")},
        {"messages": talk("q" * 300, "lost", "q" * 300)},
        {"messages": talk("q" * 400, "lost too", "q" * 300)},
    )
    task, _ = opened(CONFIG, rows, BytesTokenizer(chat_template=MARKED), DECODER, LENGTH)
    examples = task.examples(rows)
    assert [sum(example.segments[0].weights) > 0 for example in examples] == [True, False, False]
    assert [item.row for item in trainable(task, rows, examples)] == [0]
    expected = (
        "2 of 3 examples have no target within 160 tokens (the first: table line 2): left out"
    )
    assert expected in caplog.text
    with pytest.raises(UserError, match="2 of 2 examples have no target within 160 tokens"):
        trainable(task, rows, examples[1:])


@pytest.fixture(scope="module")
def started():
    task, network = opened(CONFIG, ROWS, BytesTokenizer(), DECODER, LENGTH)
    return task, network, jax.jit(network.init)(jax.random.key(1))


@pytest.mark.once
def test_outputs_are_those_of_the_model_packed_or_not(started):
    task, network, params = started
    examples = task.examples(ROWS)
    result = compute_outputs(task, network.model, params, examples, 1, None)
    for example, output in zip(examples, result, strict=True):
        (segment,) = example.segments
        logits = network.model.apply(params, jnp.array([segment.tokens]))[0]
        logs, weights = np.asarray(jax.nn.log_softmax(logits)), np.array(segment.weights)
        nats = -logs[np.arange(example.length), segment.targets]
        hits = logs.argmax(-1) == segment.targets
        assert output["nats"] == pytest.approx((nats * weights).sum(), rel=1e-5)
        assert output["correct"] == (hits * weights).sum()
        assert output["tokens"] == weights.sum()
    sums = total_loss(task, network.model, params, examples, 1, None)
    assert sums.nll == pytest.approx(sum(float(item["nats"]) for item in result), rel=1e-5)
    measures = task.metrics(ROWS, predicted(task, network, params, ROWS))
    assert measures["loss"].value == pytest.approx(sums.loss, rel=1e-5)
    mesh = eight_devices()
    with use_mesh(mesh):
        shared = jax.jit(network.init)(jax.random.key(1))
    sharded = total_loss(task, network.model, shared, examples, 8, mesh)
    assert sharded.nll == pytest.approx(sums.nll, rel=1e-5)
    many = compute_outputs(task, network.model, shared, examples, 8, mesh)
    assert many[0]["nats"] == pytest.approx(float(result[0]["nats"]), rel=1e-5)


def test_user_turns_do_not_affect_the_loss(started):
    """Targets without weight are ignored."""
    task, network, params = started
    example = task.examples(ROWS)[:1]
    (segment,) = example[0].segments
    other = [t if w else 7 for t, w in zip(segment.targets, segment.weights, strict=True)]
    changed = [example[0]._replace(segments=(segment._replace(targets=other),))]
    sums = [total_loss(task, network.model, params, item, 1, None) for item in (example, changed)]
    assert sums[0] == sums[1]


def test_a_conversation_that_waits_is_answered():
    rows = rows_of({"messages": talk("a", "yes")}, {"messages": talk("b", "no")})
    task, network = opened(CONFIG, rows, BytesTokenizer(), DECODER, LENGTH)
    params = trained(task, network, task.examples(rows), 80, 1e-2)
    asked = rows_of({"messages": talk("a")}, {"messages": talk("b", "no")}, {"messages": talk("b")})
    examples = task.examples(asked)
    result = compute_outputs(task, network.model, params, examples, 4, None)
    write = generator(network.model, params, task.context.tokenizer, None, 4)
    answers = task.predictions(PredictionData(asked, examples, result, write))
    assert [answer.get("text") for answer in answers] == ["yes", None, "no"]
    assert answers[0] == {"text": "yes"}
    assert task.metrics(asked, answers)["loss"].value < 1


def test_facts_keep_the_template_for_tokenizers_without_one():
    task, _ = opened(CONFIG, ROWS, BytesTokenizer(), DECODER, LENGTH)
    assert task.template == PLAIN
    assert TaskMetadata.from_dict(task.metadata.to_dict()) == task.metadata
    task, _ = opened(CONFIG, ROWS, BytesTokenizer(chat_template=MARKED), DECODER, LENGTH)
    assert task.template == MARKED


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "is not a list of messages"),
        ([], "is not a list of messages"),
        ([{"content": "a"}], "message 1 has no role"),
        ([{"role": "user", "content": None}], "message 1 has no text content"),
        (talk("a", " "), "message 2, the assistant's, is empty"),
        (talk("a"), "the assistant says nothing"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}, *talk("a", "b")],
            "message 1 has a part of type 'image'; only text is supported",
        ),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "message 1 has a tool call without"),
        ([{"role": "assistant", "tool_calls": "[{"}], "is not JSON"),
    ],
)
def test_errors_name_the_line(value, message):
    rows = rows_of(ROWS[0].values, {"messages": value})
    with pytest.raises(UserError, match="table line 2, column 'messages'") as caught:
        opened(CONFIG, rows, BytesTokenizer(), DECODER, LENGTH)
    assert message in str(caught.value)


TOOL = {"type": "function", "function": {"name": "now", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "now", "arguments": "{}"}}


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
def test_tools_are_read_and_calls_are_learned(tools):
    asks = [
        {"role": "user", "content": "Late?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "now", "content": "ten"},
        {"role": "assistant", "content": "It is ten."},
    ]
    rows = rows_of({"messages": asks, "tools": tools}, {"messages": talk("a", "b"), "tools": None})
    task, _ = opened(CONFIG, rows, BytesTokenizer(), DECODER, 400)
    first, second = task.examples(rows)
    read = bytes(token for token in first.segments[0].tokens if token < 256).decode()
    assert read.startswith(f"<|tools|>\n{json.dumps([TOOL])}\n<|user|>\nLate?\n")
    assert target_text(first.segments[0]) == f"{json.dumps([CALL])}<eos>|It is ten.<eos>".replace(
        '"{}"', "{}"
    )
    assert target_text(second.segments[0]) == "b<eos>"
    other = ChatTask(tools=None)
    task, _ = opened(other, rows, BytesTokenizer(), DECODER, 400)
    assert bytes(task.examples(rows)[0].segments[0].tokens[:8]) == b"<|user|>"


@pytest.mark.parametrize("tools", ["text", {"a": 1}, ["now"], 3])
def test_tools_that_are_none_are_named(tools):
    rows = rows_of({"messages": talk("a", "b"), "tools": tools})
    task, _ = opened(CONFIG, rows, BytesTokenizer(), DECODER, LENGTH)
    with pytest.raises(UserError, match="table line 1, column 'tools'"):
        task.examples(rows)


def test_a_row_that_the_template_refuses_is_named():
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}" + (
        "{% endif %}" + MARKED
    )
    task, _ = opened(CONFIG, ROWS, BytesTokenizer(chat_template=template), DECODER, LENGTH)
    line = "table line 2: the chat template: no system role; fix or remove the row"
    with pytest.raises(UserError, match=line):
        task.examples(ROWS)


def test_other_mistakes():
    with pytest.raises(UserError, match="has no column 'messages'"):
        opened(CONFIG, rows_of({"text": "a"}), model=DECODER)
    with pytest.raises(UserError, match="needs a decoder-only model"):
        opened(CONFIG, ROWS)
