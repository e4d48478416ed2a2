"""OpenAI's API over a model that nobody trained."""

import asyncio
import base64
import json
import time
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest
from starlette.testclient import TestClient

from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.decoding.config import DecodingConfig
from llmjax.engine.config import EngineConfig, RequestOptions
from llmjax.errors import UserError
from llmjax.inference.embed import embed
from llmjax.serving.app import make_app
from llmjax.serving.models import ServedModel
from llmjax.serving.options import ServeOptions, serve_problems
from llmjax.serving.serve import read_keys
from untrained import in_hand

OPTIONS = ServeOptions(max_new_tokens=24, max_body=4000)
CONFIG = EngineConfig(max_rows=2, prefill_chunk=32, fixed_shape=True)


@pytest.fixture(scope="module")
def lm():
    return in_hand(num_decoder_layers=1)


@pytest.fixture(scope="module")
def model(lm):
    served = ServedModel("tiny", lm, CONFIG)
    yield served
    served.close()


@pytest.fixture(scope="module")
def client(model):
    with TestClient(make_app([model], OPTIONS), raise_server_exceptions=True) as client:
        yield client


def events(response):
    """The objects of a stream, which must end as the API says."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_completion_is_that_of_generate(client, lm):
    body = {"model": "tiny", "prompt": "ab", "max_tokens": 9, "temperature": 0.9, "seed": 5}
    (expected,) = lm.generate("ab", max_new_tokens=9, temperature=0.9, seed=5)
    answer = client.post("/v1/completions", json=body).json()
    (choice,) = answer["choices"]
    assert choice["text"] == expected.text
    assert choice["finish_reason"] == {"eos": "stop"}.get(expected.finish, "length")
    size = len(lm.tokenizer.prefix) + 2
    assert answer["usage"] == {
        "prompt_tokens": size,
        "completion_tokens": len(expected.tokens),
        "total_tokens": size + len(expected.tokens),
    }
    streamed = client.post(
        "/v1/completions",
        json=body | {"stream": True, "stream_options": {"include_usage": True}},
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(streamed)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected.text
    assert last["usage"] == answer["usage"]


def test_chat_answers_in_lines_without_a_template(client, lm):
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    body = {"model": "tiny", "messages": messages, "seed": 1, "n": 2, "max_tokens": 6}
    body |= {"logprobs": True, "top_logprobs": 2}
    answer = client.post("/v1/chat/completions", json=body).json()
    ids = [*lm.tokenizer.prefix, *lm.tokenizer.encode("User: Hi\nAssistant:")]
    config = DecodingConfig(max_new_tokens=6, temperature=1.0, seed=1, samples=2)
    done = {p.row: p.completion for p in lm.complete([ids], config) if p.completion is not None}
    for index, choice in enumerate(answer["choices"]):
        assert choice["message"] == {"role": "assistant", "content": done[index].text}
        content = choice["logprobs"]["content"]
        assert len(content) == len(done[index].tokens)
        assert all(len(token["top_logprobs"]) == 2 for token in content)
    chunks = events(client.post("/v1/chat/completions", json=body | {"stream": True}))
    texts = {0: "", 1: ""}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"]["content"]
    assert [texts[0], texts[1]] == [done[0].text, done[1].text]


def test_a_prompt_is_scored_as_evaluate_scores_it(client, lm):
    text = "The first, the second."
    body = {"model": "tiny", "prompt": text, "max_tokens": 0, "echo": True, "logprobs": 3}
    answer = client.post("/v1/completions", json=body).json()
    (choice,) = answer["choices"]
    found = choice["logprobs"]
    assert choice["text"] == "".join(found["tokens"]) == text
    assert found["text_offset"] == list(range(len(text)))
    expected = -lm.score(text).nats[:-1]  # without the end of the text
    np.testing.assert_allclose(found["token_logprobs"], expected, rtol=1e-4)
    for logprob, top in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
        assert len(top) <= 3  # bytes that are no text look alike
        assert max(top.values()) >= logprob - 1e-6
    assert answer["usage"]["completion_tokens"] == 0
    ids = body | {"prompt": lm.tokenizer.encode(text)}
    given = client.post("/v1/completions", json=ids).json()["choices"][0]["logprobs"]
    assert given["token_logprobs"][0] is None


@pytest.mark.parametrize("fields", [{"echo": True}, {"max_tokens": 0}])
def test_a_prompt_is_scored_or_continued(client, fields):
    response = client.post("/v1/completions", json={"model": "tiny", "prompt": "a"} | fields)
    assert response.status_code == 400
    assert "with max_tokens 0" in response.json()["error"]["message"]


TEMPLATE = (
    "{% if tools %}<tool_call> {{ tools | length }}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments.city }}\n{% endfor %}{% endfor %}"
    "assistant: "
)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def tool_client():
    lm = in_hand(BytesTokenizer(chat_template=TEMPLATE), num_decoder_layers=1, max_length=256)
    served = ServedModel("tiny", lm, CONFIG)
    options = replace(OPTIONS, max_new_tokens=120)
    with TestClient(make_app([served], options), raise_server_exceptions=True) as client:
        yield client
    served.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_that_must_be_called_is_called(tool_client, stream):
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a"}],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "stream": stream,
        "seed": 2,
        "max_tokens": 120,
    }
    response = tool_client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    if stream:
        choices = [event["choices"][0] for event in events(response)]
        message = choices[-1]["delta"]
        assert not any(choice["delta"]["content"] for choice in choices)
    else:
        choices = response.json()["choices"]
        message = choices[0]["message"]
        assert message["content"] is None
    assert choices[-1]["finish_reason"] == "tool_calls"
    (call,) = message["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["city"] in ("Oslo", "Rome")

    turns = [*body["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns += [{"role": "tool", "tool_call_id": call["id"], "content": "rain"}]
    more = {"model": "tiny", "messages": turns, "tools": [TOOL], "max_tokens": 4}
    assert tool_client.post("/v1/chat/completions", json=more).status_code == 200


SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]}
FORMS = {
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    "object": {"response_format": {"type": "json_object"}},
    "regex": {"structured_outputs": {"regex": "[ab]{3}"}},
    "choice": {"structured_outputs": {"choice": ["one", "two"]}},
    "older": {"guided_json": SCHEMA},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", FORMS)
def test_answers_have_the_form_that_is_asked_for(client, name, stream):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 24}
    response = client.post(
        "/v1/chat/completions", json=body | FORMS[name] | {"stream": stream, "seed": 1}
    )
    if stream:
        choices = [event["choices"][0] for event in events(response)]
        text = "".join(choice["delta"]["content"] for choice in choices)
        finish = choices[-1]["finish_reason"]
    else:
        (choice,) = response.json()["choices"]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    if name == "regex":
        assert set(text) <= {"a", "b"}
        assert len(text) == 3
    elif name == "choice":
        assert text in ("one", "two")
    elif finish == "stop":
        assert isinstance(json.loads(text), dict)
    else:
        assert text.startswith("{")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type: is xml"),
        ({"response_format": {"type": "json_schema"}}, "json_schema: has no schema"),
        ({"structured_outputs": {"regex": "["}}, "regular expression: cannot be used"),
        ({"structured_outputs": {"choice": "one"}}, "choice: is not served in this form"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "in several ways"),
    ],
)
def test_forms_that_cannot_be_had_are_refused(client, fields, words):
    body = {"model": "tiny", "prompt": "a"} | fields
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_embeddings_models_health_and_metrics(client, lm):
    body = {"model": "tiny", "input": ["one", "two"]}
    answer = client.post("/v1/embeddings", json=body).json()
    expected = embed(lm, text=("one", "two")).tolist()
    assert [item["embedding"] for item in answer["data"]] == expected
    packed = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    rows = [base64.b64decode(item["embedding"]) for item in packed["data"]]
    assert [np.frombuffer(row, "<f4").tolist() for row in rows] == expected
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert client.get("/health").json() == {"status": "ok"}
    text = client.get("/metrics").text
    assert 'llmjax_requests_total{path="/v1/embeddings",status="200"}' in text
    assert 'llmjax_running{model="tiny"} 0.0' in text


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("completions", "{", 400, "the body"),
        ("completions", {"model": "tiny"}, 400, "prompt"),
        ("completions", {"model": "other", "prompt": "a"}, 404, "other is not served"),
        ("completions", {"model": "tiny", "prompt": "a" * 200}, 400, "context of 128"),
        ("completions", {"model": "tiny", "prompt": "a" * 5000}, 413, "4000 bytes"),
        ("completions", {"model": "tiny", "prompt": [99999]}, 400, "outside"),
        ("completions", {"model": "tiny", "prompt": "a", "temperature": -1}, 400, "temperature"),
        ("completions", {"model": "tiny", "prompt": "a", "logit_bias": {"1": 2}}, 400, "logit"),
        ("chat/completions", {"model": "tiny", "messages": [{}]}, 400, "role"),
        ("chat/completions", {"model": "tiny", "messages": []}, 400, "messages"),
        ("nothing", {}, 404, "Not Found"),
    ],
)
def test_mistakes_have_the_shape_of_the_api(client, path, body, status, words):
    content = body if isinstance(body, str) else json.dumps(body)
    for stream in (False, True):
        if stream and isinstance(body, dict):
            content = json.dumps(body | {"stream": True})
        response = client.post(f"/v1/{path}", content=content)
        assert response.status_code == status
        assert words in response.json()["error"]["message"]


def test_a_request_that_takes_too_long_is_dropped(model):
    options = replace(OPTIONS, max_seconds=1e-6)
    with TestClient(make_app([model], options)) as client:
        body = {"model": "tiny", "prompt": "a", "max_tokens": 20}
        assert client.post("/v1/completions", json=body).status_code == 503
    deadline = time.monotonic() + 20
    while not model.worker.engine.is_idle and time.monotonic() < deadline:
        time.sleep(0.01)
    assert model.worker.engine.is_idle


def test_who_stops_reading_frees_the_row(model):
    async def leave():
        options = RequestOptions(DecodingConfig(max_new_tokens=120, samples=2))
        async with aclosing(model.worker.stream("a", options, 60.0)) as stream:
            await anext(stream)
        while not model.worker.engine.is_idle:
            await asyncio.sleep(0.01)

    before = model.worker.tokens
    asyncio.run(asyncio.wait_for(leave(), 30))
    assert model.worker.tokens - before < 240


def test_keys_are_needed_where_there_are_any(model, tmp_path):
    file = tmp_path / "keys"
    file.write_text("one\n\ntwo\n")
    with TestClient(make_app([model], OPTIONS, read_keys(str(file)))) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").status_code == 401
        for key, status in (("two", 200), ("three", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.get("/v1/models", headers=headers).status_code == status
    file.write_text("\n")
    with pytest.raises(UserError, match="contains no key"):
        read_keys(str(file))


def test_options_are_checked():
    problems = serve_problems(ServeOptions(port=0, max_rows=0, max_seconds=0))
    assert [line.partition(":")[0] for line in problems] == ["max_rows", "port", "max_seconds"]
