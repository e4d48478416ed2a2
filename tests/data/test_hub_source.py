"""The hub source, with a stand-in for the optional library `datasets`."""

import sys
import types

import pytest

from llmjax.data.text.hub import HubSource
from llmjax.errors import UserError

SOURCE = HubSource("owner/name", subset="sub", revision="0" * 40)


@pytest.fixture
def hub(monkeypatch):
    """A fake `datasets` that streams three rows and records its calls."""
    module = types.ModuleType("datasets")
    module.calls, module.rows = [], [{"text": f"row {i}", "n": i} for i in range(3)]

    def load_dataset(*args, **options):
        module.calls.append((args, options))
        return iter(module.rows)

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_rows_are_streamed(hub):
    assert list(SOURCE.documents()) == ["row 0", "row 1", "row 2"]
    (args, options) = hub.calls[0]
    assert args == ("owner/name", "sub")
    assert options == {"split": "train", "revision": "0" * 40, "streaming": True}


def test_a_wrong_column_names_the_right_ones(hub):
    hub.rows = [{"content": "x", "title": "y", "n": 1}]
    with pytest.raises(UserError, match=r"owner/name: has no text column 'text'.*content, title"):
        list(SOURCE.documents())


def test_errors_of_the_hub_are_the_users_to_mend(hub):
    def fail(*_, **__):
        raise FileNotFoundError("dataset 'owner/name' doesn't exist")

    hub.load_dataset = fail
    with pytest.raises(UserError, match="cannot be read from the hub: dataset 'owner/name'"):
        list(SOURCE.documents())


def test_errors_of_the_network_too(hub, monkeypatch):
    client = types.ModuleType("httpx")
    client.HTTPError = type("HTTPError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "httpx", client)

    def fail(*_, **__):
        raise client.HTTPError("name resolution")

    hub.load_dataset = fail
    with pytest.raises(UserError, match="name resolution; check name, split, network"):
        list(SOURCE.documents())


def test_a_branch_is_pinned_to_its_commit(hub, monkeypatch):
    api = types.ModuleType("huggingface_hub")
    api.HfApi = lambda: types.SimpleNamespace(
        dataset_info=lambda name, revision: types.SimpleNamespace(sha=f"{name} at {revision}")
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", api)
    assert HubSource("a/b", revision="dev").pinned().revision == "a/b at dev"
    assert SOURCE.pinned() == SOURCE


def test_identity_is_the_commit(hub):
    first = SOURCE.identify().digest
    assert first == SOURCE.identify().digest
    assert first != HubSource("owner/name", subset="sub", revision="1" * 40).identify().digest
    assert first != HubSource("owner/name", revision="0" * 40).identify().digest


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for use in (lambda: list(SOURCE.documents()), lambda: SOURCE.identify()):
        with pytest.raises(UserError, match=r"pip install 'llmjax\[hub\]'"):
            use()
