"""Indexes over HTTP: passages with their sources, and what a chat model is asked."""

import pytest
from starlette.testclient import TestClient

from llmjax.engine.config import EngineConfig
from llmjax.errors import UserError
from llmjax.inference.language_model import load
from llmjax.retrieval.index import index
from llmjax.retrieval.search import open_index, search
from llmjax.serving.app import make_app
from llmjax.serving.indexes import ServedIndex, load_indexes
from llmjax.serving.models import ServedModel
from llmjax.serving.options import ServeOptions
from task_runs import ENCODER, begun
from untrained import in_hand


@pytest.fixture(scope="module")
def location(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    run = begun(folder / "encoder", ENCODER)
    (folder / "docs").mkdir()
    (folder / "docs" / "cats.txt").write_text("Cats purr when they are content.")
    (folder / "docs" / "tea.md").write_text("# Tea\n\nGreen tea is steeped for two minutes.")
    index(load(run), folder / "docs", folder / "manual.db")
    return str(folder / "manual.db")


@pytest.fixture(scope="module")
def client(location):
    model = ServedModel("tiny", in_hand(num_decoder_layers=1), EngineConfig(max_rows=1))
    served = load_indexes([location])
    with TestClient(make_app([model], ServeOptions(), indexes=served)) as client:
        yield client
    for each in (model, *served):
        each.close()


def test_passages_are_those_of_search(client, location):
    assert client.get("/v1/indexes").json()["data"] == [{"id": "manual", "object": "index"}]
    response = client.post("/v1/search", json={"query": "green tea", "limit": 1})
    answer = response.json()
    (expected,) = search(location, "green tea", limit=1)
    assert answer["data"] == [expected.to_dict()]
    assert answer["index"] == "manual"
    system, user = answer["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert "[1] " in user["content"]
    assert user["content"].endswith("Question: green tea")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": ""}, "query"),
        ({"query": "a", "limit": 0}, "limit"),
        ({"query": "a", "index": "other"}, "index other: choose one of manual"),
        ({"query": "a", "where": "b"}, "where"),
        ({}, "query"),
    ],
)
def test_mistakes_have_the_shape_of_the_api(client, body, words):
    response = client.post("/v1/search", json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_a_server_without_an_index_says_so(location):
    with TestClient(make_app([], ServeOptions())) as client:
        response = client.post("/v1/search", json={"query": "a"})
    assert "start the server with --index FILE" in response.json()["error"]["message"]
    with pytest.raises(UserError, match="two indexes named manual"):
        load_indexes([location, location])
    assert ServedIndex("manual", open_index(location)).search("tea", 1)["data"]
