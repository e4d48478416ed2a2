"""The presets: they load, they are what their headers say, and they are shipped."""

import ast
import dataclasses
import tomllib
from pathlib import Path

import pytest

from llmjax.model.checks import resolve
from llmjax.model.model import Model
from llmjax.run.config.checks import validate
from llmjax.run.config.files import load_config_file, presets
from llmjax.run.config.storage import from_json, to_json

NAMES = sorted(presets())
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_valid_and_store(name, tmp_path):
    config = dataclasses.replace(load_config_file(name), run_dir=str(tmp_path))
    assert validate(config) == config
    assert from_json(to_json(config)) == config


def test_every_preset_has_a_run_folder_of_its_own():
    folders = [load_config_file(name).run_dir for name in NAMES]
    assert folders == [f"runs/{name}" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_headers_say_command_and_hardware(name):
    header = ast.get_docstring(ast.parse(presets()[name].read_text(encoding="utf-8")))
    assert header is not None
    assert f"llmjax train {name}" in header
    assert "\nHardware: " in header


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("quickstart", (3, 8)),
        ("gpt2_124m", (124, 125)),
        ("llama_1b", (1235, 1237)),
        ("llama_8b", (8030, 8031)),
        ("mlm_quickstart", (3, 4)),
        ("mlm_texts", (3, 4)),
        ("bert_base", (109, 110)),
        ("roberta_base", (124, 126)),
        ("t5_small", (60, 61)),
    ],
)
def test_sizes_are_those_of_their_names(name, millions):
    config = load_config_file(name)
    size = config.tokenizer.vocab_size
    count = Model(resolve(config.model, size)).num_params() / 1e6
    assert millions[0] <= count <= millions[1]


def test_an_encoder_of_texts_is_that_of_their_labels():
    before, after = (load_config_file(name) for name in ("mlm_texts", "classify_scratch"))
    assert after.model == before.model
    assert before.tokenizer == after.tokenizer


def test_an_installed_package_carries_the_presets():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]
    assert build["wheel"]["force-include"] == {"configs": "llmjax/configs"}
    assert "/configs" in build["sdist"]["include"]
