"""Exports to a bucket and imports from it, against real servers."""

import json

import numpy as np
import pytest

import untrained
from llmjax.convert.sources import local_source
from llmjax.inference.language_model import load
from llmjax.storage.stores.path import location
from object_stores import SERVERS


@pytest.mark.parametrize("scheme", SERVERS)
def test_export_and_import(scheme, command, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    run = untrained.make_run(tmp_path).folder
    with SERVERS[scheme]() as server:
        out = server.address("exports/folder")
        code, text, err = command("export", str(run), out, "--json")
        assert code == 0, err
        assert json.loads(text)["bytes"] > 1000
        code, _, err = command("export", str(run), out)
        assert (code, err[-1].partition("; ")[0]) == (2, f"llmjax: error: {out}: already exists")
        imported = server.address("runs/imported")
        code, text, err = command("import", out, imported, "--json")
        assert code == 0, err
        summary = json.loads(text)
        assert summary["run"] == imported
        assert summary["bytes"] == sum(info.size for info in location(imported).files().values())
        tokens = np.array([[5, 6, 7, 8]])
        np.testing.assert_allclose(
            load(imported).logits(tokens), load(run).logits(tokens), atol=1e-5
        )


def test_a_file_is_copied_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path))
    with SERVERS["s3"]() as server:
        address = server.address("models/tiny.gguf")
        location(address).write_bytes(b"GGUF")
        path = local_source(address)
        assert (path.name, path.read_bytes()) == ("tiny.gguf", b"GGUF")
        start = len(server.requests)
        assert local_source(address) == path
        assert not any("GET" in request for request in server.requests[start:])
        location(address).write_bytes(b"GGUF 2")
        assert local_source(address).read_bytes() == b"GGUF 2"
