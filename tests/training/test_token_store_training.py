"""Training from a token store in a bucket."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import runs
from llmjax.errors import UserError
from llmjax.training.pretraining import build_text
from llmjax.training.train import train
from object_stores import s3_server


@pytest.mark.once
def test_a_run_reads_its_batches_from_a_bucket(tmp_path, monkeypatch):
    with s3_server() as server:
        monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "copies"))
        config = runs.config(tmp_path)
        data = replace(config.data, shards=2, store=server.address("tokens"))
        stored = replace(config, data=data)
        with pytest.raises(UserError, match="holds no token store; run llmjax data build"):
            train(replace(stored, run_dir=str(tmp_path / "none")))
        build_text(stored, lambda *_: None)
        (tmp_path / "text").rename(tmp_path / "hidden")
        train(replace(stored, data=replace(data, cache_dir=str(tmp_path / "empty"))))
        assert not (tmp_path / "empty" / "tokens").exists()
    (tmp_path / "hidden").rename(tmp_path / "text")
    local = replace(config, data=replace(data, store=None))
    train(local)  # is complete, and continues without the store
    train(replace(local, run_dir=str(tmp_path / "local")))
    stored, local = (runs.params(tmp_path / name) for name in ("run", "local"))
    jax.tree.map(np.testing.assert_array_equal, stored, local)
