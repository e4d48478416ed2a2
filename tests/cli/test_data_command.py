"""`llmjax data build`: the store that `llmjax train` finds, also after a kill."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from command import run

import runs
from llmjax.cli.data import BuildOptions
from llmjax.data.datatrove.executors import RayExecutor
from llmjax.data.text import shards
from llmjax.data.text.corpus import prepare
from llmjax.run.config.build import ConfigError
from llmjax.run.config.files import load_config_file
from llmjax.run.config.overrides import Override, override


@pytest.fixture
def config_file(tmp_path) -> str:
    """A config of 600 sentences, tokenized into bytes."""
    runs.write_text(tmp_path / "text")
    text, cache, folder = (str(tmp_path / name) for name in ("text", "cache", "run"))
    (tmp_path / "config.py").write_text(
        "from llmjax import BytesConfig, Config, DataConfig, TextSource\n\n\n"
        "def config():\n"
        f"    source = TextSource(({text!r},), chunk_bytes=64)\n"
        f"    data = DataConfig((source,), 8, 16, cache_dir={cache!r}, workers=1)\n"
        f"    return Config(run_dir={folder!r}, tokenizer=BytesConfig(), data=data)\n"
    )
    return str(tmp_path / "config.py")


def digests(cache: Path) -> dict[str, str]:
    files = [path for path in (cache / "tokens").rglob("[!.]*") if path.is_file()]
    return {
        str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_it_prepares_the_store_that_training_opens(capsys, config_file, monkeypatch):
    words = ("data", "build", config_file, "--shards", "3")
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0
    assert not Path(config_file).with_name("run").exists()
    monkeypatch.setattr(shards, "fill_shard", lambda *_: pytest.fail("nothing is left to do"))
    config = load_config_file(config_file)
    _, corpus = prepare(replace(config.data, shards=3), config.tokenizer)
    result = json.loads(out)
    assert result["tokens"] == corpus.num_tokens
    assert result["bytes"] == corpus.num_bytes
    assert result["tokenized_bytes"] == corpus.num_bytes + result["heldout_bytes"]
    assert result["duplicates"] == corpus.sources[0].duplicates
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert f"{corpus.num_documents} documents, {corpus.num_tokens:,} tokens" in out
    assert "nothing; the store was complete" in out
    words = (*words, "--store", str(Path(config_file).with_name("store")))
    for what in ("all shards were complete, and the store was published", "the store was complete"):
        code, out, err = run(capsys, *words)
        assert code == 0, err
        assert f"nothing; {what}" in out


@pytest.mark.once
def test_a_field_has_the_type_that_it_has_in_the_kind_that_was_chosen():
    fields = [Override("executor", ("ray",)), Override("executor.memory-gb", ("0.5",))]
    assert override(BuildOptions(), fields).executor == RayExecutor(memory_gb=0.5)
    with pytest.raises(ConfigError, match=r"memory-gb: '0.5' is not an integer"):
        override(BuildOptions(), [Override("executor", ("slurm",)), fields[1]])


def test_it_reports_what_filters_dropped(capsys, config_file, tmp_path):
    words = ("data", "build", config_file, "--data.sources.0.filters", "regex:dog", "sampler:0.5")
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    first, second = (result := json.loads(out))["filters"]
    assert (first["source"], first["filter"], second["filter"]) == (0, "regex", "sampler")
    assert 0 < first["dropped"] == first["documents"] - second["documents"]
    assert first["reasons"] == {"dropped": first["dropped"]}
    kept = result["documents"] + result["heldout_documents"] + result["duplicates"]
    assert 0 < second["dropped"] == second["documents"] - kept
    line = f"regex dropped {first['dropped']:,} of {first['documents']:,} documents of source 0"
    for more in ([], ["--store", str(tmp_path / "store")], ["--store", str(tmp_path / "store")]):
        code, out, err = run(capsys, *words, *more)
        assert code == 0, err
        assert line in out
    for filter_, reason in (
        ("lambda", "'lambda' is not one of its kinds; choose one of gopher_quality"),
        ("gopher_quality:min_words=3", "has no field 'min_words'; did you mean min_doc_words?"),
        ("sampler:often", "'often' is not a number"),
    ):
        code, _, err = run(capsys, *words[:4], filter_)
        assert code == 2
        assert reason in err[0]


@pytest.mark.once
def test_a_killed_build_continues(capsys, config_file, tmp_path):
    filters = ("--data.sources.0.filters", "sampler:0.9", "regex:dog")
    words = ("data", "build", config_file, "--shards", "40", *filters)
    assert run(capsys, *words, "--cache-dir", str(tmp_path / "whole"))[0] == 0
    process = subprocess.Popen([sys.executable, "-m", "llmjax", *words])
    try:
        while not list((tmp_path / "cache").glob("tokens/*/[0-9]*-of-*")):
            assert process.poll() is None
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    assert run(capsys, *words)[0] == 0
    assert digests(tmp_path / "cache") == digests(tmp_path / "whole")
