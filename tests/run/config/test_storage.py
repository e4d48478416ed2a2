import dataclasses
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.data.config import DataConfig
from llmjax.data.text.hub import HubSource
from llmjax.data.text.parquet import ParquetSource
from llmjax.data.text.text_files import JsonlSource, TextSource
from llmjax.data.text.tfds import EmbeddedSource, TfdsSource
from llmjax.data.tokenizers.config import (
    BytesConfig,
    HuggingFaceTokenizerConfig,
    SentencePieceConfig,
)
from llmjax.errors import UserError
from llmjax.optimizers.muon import MuonConfig
from llmjax.optimizers.standard import AdafactorConfig, AdamWConfig, LionConfig, SgdConfig
from llmjax.run.config import storage
from llmjax.run.config.build import ConfigError
from llmjax.run.config.schema import Config, SamplesConfig
from llmjax.run.config.storage import FORMAT, from_json, to_json
from llmjax.storage.checksums import CHECKSUM

numbers = st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
sources = st.one_of(
    st.builds(EmbeddedSource, weight=numbers),
    st.builds(TextSource, st.tuples(texts, texts), weight=numbers),
    st.builds(JsonlSource, st.tuples(texts), field=texts),
    st.builds(ParquetSource, st.tuples(texts)),
    st.builds(TfdsSource, texts, data_dir=st.none() | texts),
    st.builds(HubSource, texts),
)
configs = st.builds(
    Config,
    run_dir=texts,
    seed=st.integers(),
    tokenizer=st.one_of(
        st.builds(SentencePieceConfig, vocab_size=st.integers(), path=st.none() | texts),
        st.builds(HuggingFaceTokenizerConfig, texts),
        st.just(BytesConfig()),
    ),
    optimizer=st.one_of(
        st.builds(cls, learning_rate=numbers, clip_norm=st.none() | numbers)
        for cls in (AdamWConfig, AdafactorConfig, LionConfig, MuonConfig, SgdConfig)
    ),
    data=st.builds(DataConfig, sources=st.lists(sources, max_size=3).map(tuple)),
    samples=st.builds(SamplesConfig, prompts=st.lists(texts, max_size=3).map(tuple)),
)


@settings(max_examples=100, deadline=None)
@given(configs)
def test_what_is_stored_reads_back_equal(config):
    assert from_json(to_json(config)) == config


def test_the_file_says_its_format_and_who_wrote_it():
    document = json.loads(to_json(Config()))
    assert document["format"] == FORMAT
    assert document["llmjax"] == storage.package_version()


def test_a_config_that_was_changed_is_refused_until_its_checksum_is_removed():
    text = to_json(Config())
    edited = text.replace('"rope_theta": 10000.0', '"rope_theta": 90000.0')
    assert edited != text
    with pytest.raises(UserError, match=r"x\.json: was changed .*remove \"checksum\""):
        from_json(edited, "x.json")
    document = json.loads(edited)
    del document[CHECKSUM]
    assert from_json(json.dumps(document)).model.rope_theta == 90000.0
    assert from_json(json.dumps(json.loads(text), indent=7)) == Config(), "the layout is free"


def test_no_flipped_bit_changes_a_config():
    text = to_json(Config()).encode()
    generator = random.Random(0)
    for index in generator.sample(range(len(text)), 400):
        broken = bytearray(text)
        broken[index] ^= 1 << generator.randrange(8)
        try:
            config = from_json(broken.decode("utf-8"), "x.json")
        except UnicodeDecodeError:
            continue
        except UserError as error:
            assert "x.json: " in str(error)  # noqa: PT017 (either is fine)
        else:
            assert config == Config()


def test_a_name_that_is_not_utf_8_comes_back_as_it_was(tmp_path):
    name = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    config = Config(data=DataConfig(sources=(TextSource((name,)),)))
    (tmp_path / "config.json").write_text(to_json(config), encoding="utf-8")
    assert storage.read(tmp_path / "config.json") == config


def changed(**fields) -> str:
    document = json.loads(to_json(Config()))
    document["config"].update(fields)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.json: is not JSON"),
        ('{"format": 1, "con', "x.json: is not JSON"),
        ("[]", "has no format number"),
        ('{"config": {}}', "has no format number"),
        ('{"format": true, "config": {}}', "has no format number"),
        (f'{{"format": {FORMAT + 1}, "llmjax": "9.9", "config": {{}}}}', "llmjax 9.9"),
        ('{"format": 0, "llmjax": "0.0.1", "config": {}}', "format 0, written by llmjax 0.0.1"),
        ('{"model_type": "llama"}', "is the config of a published model, not of a run; make a run"),
        ("[" * 10**5, "x.json: has JSON nested more than"),
        (changed(stepz=3), "x.json: stepz: unknown; did you mean steps?"),
        (changed(steps="3"), "x.json: steps: '3' is not an integer"),
        (changed(mesh={}), "mesh.data: missing"),
    ],
)
def test_a_file_that_means_nothing_here_is_refused_by_name(text, message):
    with pytest.raises(UserError, match=r"x\.json") as caught:
        from_json(text, "x.json")
    assert message in str(caught.value)


def test_all_problems_of_a_file_at_once():
    with pytest.raises(ConfigError) as caught:
        from_json(changed(steps="3", seed=None, new=1))
    assert len(caught.value.problems) == 3


def test_older_formats_are_migrated_step_by_step(monkeypatch):
    def rename(config):
        return {("steps" if k == "updates" else k): v for k, v in config.items()}

    monkeypatch.setattr(storage, "FORMAT", FORMAT + 2)
    monkeypatch.setattr(
        storage,
        "MIGRATIONS",
        {FORMAT: lambda config: {**config, "updates": 7}, FORMAT + 1: rename},
    )
    document = json.loads(to_json(Config()))
    del document["config"]["steps"]
    document["format"] = FORMAT
    del document[CHECKSUM]  # of a config with steps
    assert from_json(json.dumps(document)) == dataclasses.replace(Config(), steps=7)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: cannot be read: No such file"):
        storage.read(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        storage.read(tmp_path / "config.json")


def test_tasks_of_format_3_tell_their_answers_as_they_did():
    document = json.loads((Path(__file__).parent / "format_4.json").read_text())
    for task in document["config"]["tasks"]:
        for name in ("no_answer_threshold", "bleu_tokenize"):
            task.pop(name, None)
    answers, sequence = from_json(json.dumps(document | {"format": 3})).tasks
    assert answers.no_answer_threshold == 0
    assert (sequence.beams, sequence.bleu_tokenize) == (4, "13a")


def test_run_folders_of_every_format_still_read():
    """When this fails, a field of a config has changed: see llmjax/run/config/storage.py."""
    files = sorted(Path(__file__).parent.glob("format_*.json"))
    assert {path.stem for path in files} == {f"format_{n}" for n in range(1, FORMAT + 1)}
    for path in files:
        config = storage.read(path)
        assert config.steps == 1234
        assert config.tokenizer == BytesConfig()
        assert isinstance(config.optimizer, LionConfig)
        assert isinstance(config.data.sources[1], TextSource)
