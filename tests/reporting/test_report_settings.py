"""The config on the page: all of it, and what is not default marked."""

from dataclasses import replace

import pytest

from llmjax.data.config import DataConfig
from llmjax.data.text.text_files import TextSource
from llmjax.decoding.config import DecodingConfig
from llmjax.optimizers.standard import LionConfig
from llmjax.reporting.settings import changes, setting_groups
from llmjax.run.config.fields import rows
from llmjax.run.config.files import load_config_file
from llmjax.run.config.schema import Config


def changed(config):
    return {
        f"{group.title}.{setting.name}": (setting.value, setting.default)
        for group in setting_groups(config, Config())
        for setting in group.settings
        if setting.changed
    }


def test_the_default_config_marks_nothing_and_shows_every_field():
    config = Config()
    groups = setting_groups(config, Config())
    assert changed(config) == {}
    assert sum(len(group.settings) for group in groups) == len(list(rows(config)))
    assert len({group.title for group in groups}) == len(groups)
    assert all(x.doc for group in groups for x in group.settings if group.title == "model")


def test_changed_fields_are_marked_with_their_defaults():
    config = Config()
    config = replace(config, steps=7, model=replace(config.model, window=64, gated=False))
    assert changed(config) == {
        "run.steps": ("7", str(Config().steps)),
        "model.window": ("64", "none"),
        "model.gated": ("false", "true"),
    }


def test_another_kind_is_compared_with_its_own_defaults():
    config = replace(Config(), optimizer=LionConfig(weight_decay=0.5))
    marked = changed(config)
    assert marked["optimizer.kind"] == ("lion", "adamw")
    assert marked["optimizer.weight_decay"] == ("0.5", str(LionConfig().weight_decay))
    assert len(marked) == 2


def test_defaults_of_the_whole_outrank_those_of_the_part():
    """Samples while training are shorter by default than text on demand."""
    config = Config()
    assert config.samples.decoding != DecodingConfig(), "else this test shows nothing"
    config = replace(config, samples=replace(config.samples, decoding=DecodingConfig()))
    assert set(changed(config)) == {"samples.decoding.max_new_tokens"}


def test_sources_show_what_they_require():
    source = TextSource(paths=("a.txt", "b.txt"), chunk_bytes=10)
    marked = changed(replace(Config(), data=DataConfig(sources=(source, source))))
    assert marked["data.sources.0.paths"] == ("a.txt, b.txt", "required")
    assert marked["data.sources.1.chunk_bytes"] == ("10", "4096")
    assert marked["data.sources"] == ("text, text", "embedded")


def started(*commands):
    return {"sessions": [{"command": command} for command in commands]}


def test_a_run_is_compared_with_the_preset_that_it_was_started_with():
    config = replace(load_config_file("smoke"), steps=99, run_dir="elsewhere")
    for command in ("llmjax train smoke --steps 99", "python -m llmjax train smoke --lr 1"):
        changed = changes(config, started(command, "llmjax train runs/smoke"))
        assert changed.base == "the preset smoke"
        assert [(s.name, s.value, s.default) for s in changed.settings] == [("steps", "99", "20")]


@pytest.mark.parametrize("command", ["llmjax train my/smoke.py", "llmjax train", "x '", None])
def test_else_it_is_compared_with_the_defaults(command):
    changed = changes(replace(Config(), optimizer=LionConfig()), started(command))
    assert changed.base == "the defaults"
    assert [(s.name, s.value) for s in changed.settings] == [("optimizer", "lion")]
    assert changes(Config(), {}).settings == []
