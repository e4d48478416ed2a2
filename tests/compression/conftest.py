"""Run folders, each made once."""

import pytest
from compress_runs import make


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Kind of tokenizer -> run folder, made when it is first asked for."""
    made = {}

    def run(kind):
        if kind not in made:
            made[kind] = make(tmp_path_factory.mktemp(kind) / "of", kind)
        return made[kind]

    return run


@pytest.fixture(scope="session")
def run(runs):
    return runs("bytes")
