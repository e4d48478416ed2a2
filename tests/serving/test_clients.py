"""The API as others use it: OpenAI's own client, and whatever strangers send."""

import json
import resource
import socket
import threading
import time

import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.engine.config import EngineConfig
from llmjax.inference.embed import embed
from llmjax.serving.app import make_app
from llmjax.serving.models import ServedModel
from llmjax.serving.options import ServeOptions
from untrained import in_hand

CONFIG = EngineConfig(max_rows=2, prefill_chunk=32, fixed_shape=True)
OPTIONS = ServeOptions(max_new_tokens=8, max_body=4000)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


@pytest.fixture(scope="module")
def lm():
    return in_hand(BytesTokenizer(chat_template=TEMPLATE), num_decoder_layers=1)


@pytest.fixture(scope="module")
def app(lm):
    model = ServedModel("tiny", lm, CONFIG)
    yield make_app([model], OPTIONS, keys=["secret"])
    model.close()


@pytest.fixture(scope="module")
def address(app):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join()


def test_with_the_client_of_openai(address, lm):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=address, api_key="secret", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        (expected,) = lm.generate("ab", max_new_tokens=6, temperature=0.0)
        asked = {"model": "tiny", "prompt": "ab", "max_tokens": 6, "temperature": 0}
        answer = client.completions.create(**asked, logprobs=2)
        assert answer.choices[0].text == expected.text
        assert answer.usage.completion_tokens == len(expected.tokens)
        assert len(answer.choices[0].logprobs.token_logprobs) == len(expected.tokens)
        chunks = list(client.completions.create(**asked, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == expected.text

        messages = [{"role": "user", "content": "a"}]
        chat = {"model": "tiny", "messages": messages, "max_completion_tokens": 6, "seed": 3}
        whole = client.chat.completions.create(**chat, n=2)
        assert {choice.index for choice in whole.choices} == {0, 1}
        stream = client.chat.completions.create(
            **chat, stream=True, stream_options={"include_usage": True}
        )
        text, usage = "", None
        for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert text == whole.choices[0].message.content
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        found = client.embeddings.create(model="tiny", input=["a", "bc"]).data
        np.testing.assert_allclose(
            [row.embedding for row in found], embed(lm, text=("a", "bc")), rtol=1e-5
        )
        with pytest.raises(openai.BadRequestError, match="messages"):
            client.chat.completions.create(model="tiny", messages=[])
        with pytest.raises(openai.NotFoundError, match="is not served"):
            client.completions.create(model="other", prompt="a")
    with (
        openai.OpenAI(base_url=address, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = (
    "model prompt messages input query max_tokens temperature top_p top_k min_p n seed stop stream "
    "logprobs top_logprobs echo response_format structured_outputs tools tool_choice "
    "stream_options "
    "repetition_penalty presence_penalty frequency_penalty guided_regex encoding_format limit index"
).split()
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "tool", "assistant"]) | JSON, "content": JSON}
)
LIKELY = {
    "model": st.just("tiny"),
    "prompt": st.text(max_size=300) | st.lists(st.integers(-2, 300), max_size=5),
    "messages": st.lists(MESSAGE, max_size=3),
    "max_tokens": st.integers(-1, 4),
    "stream": st.booleans(),
    "structured_outputs": st.fixed_dictionaries({"regex": st.text(max_size=12)}),
    "response_format": st.fixed_dictionaries({"type": JSON, "json_schema": JSON}),
    "n": st.integers(0, 3),
}
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4).flatmap(
    lambda wild: st.fixed_dictionaries({}, optional=LIKELY).map(lambda likely: likely | wild)
)
PATHS = ("completions", "chat/completions", "embeddings", "search")
CALLS = st.tuples(
    st.sampled_from(PATHS), BODIES.map(lambda b: json.dumps(b).encode()) | st.binary(max_size=80)
)


def bombard(app, examples: int) -> int:
    """Sends so many requests; returns the growth of memory in bytes after the first half."""
    sizes: list[int] = []
    with TestClient(app, raise_server_exceptions=False) as client:

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(call=CALLS)
        def send(call):
            path, body = call
            start = time.monotonic()
            headers = {"authorization": "Bearer secret", "content-type": "application/json"}
            response = client.post(f"/v1/{path}", content=body, headers=headers)
            assert response.status_code < 500, (path, body, response.text)
            assert time.monotonic() - start < 60
            if response.status_code >= 400:
                assert set(response.json()) == {"error"}
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

        send()
        body = {"model": "tiny", "prompt": "ab", "max_tokens": 2}
        key = {"authorization": "Bearer secret"}
        assert client.post("/v1/completions", json=body, headers=key).status_code == 200
    return sizes[-1] - sizes[len(sizes) // 2]


def test_whatever_is_sent_gets_an_answer(app):
    bombard(app, 60)


@pytest.mark.once
def test_two_thousand_requests_neither_fail_nor_grow(app):
    assert bombard(app, 2000) < 100 << 20
