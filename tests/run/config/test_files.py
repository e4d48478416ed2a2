import sys

import pytest

from llmjax.errors import UserError
from llmjax.run.config.files import load_config_file, presets
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import to_json

GOOD = """
from llmjax.run.config.schema import Config

def config() -> Config:
    return Config(steps=7)
"""


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_config_file_is_a_program_that_returns_a_config(tmp_path):
    assert load_config_file(write(tmp_path, GOOD)) == Config(steps=7)


def test_a_run_folder_stands_for_its_config(tmp_path):
    config = Config(steps=7, run_dir="somewhere/else")
    (tmp_path / "config.json").write_text(to_json(config))
    assert load_config_file(tmp_path) == Config(steps=7, run_dir=str(tmp_path))


def test_config_files_build_on_their_neighbours(tmp_path):
    write(tmp_path, GOOD, "base_of_mine.py")
    text = "import dataclasses, base_of_mine\n"
    text += "def config(): return dataclasses.replace(base_of_mine.config(), seed=3)\n"
    assert load_config_file(write(tmp_path, text)) == Config(steps=7, seed=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no function config()"),
        ("config = 3", "has no function config()"),
        ("def config(): return {}", "config() returns {}; return an llmjax.Config"),
        ("def config(:", "line 1: SyntaxError"),
        ("import nowhere_to_be_found", "line 1: ModuleNotFoundError"),
        (GOOD.replace("steps=7", "stepz=7"), "line 5: TypeError"),
        (GOOD.replace("steps=7", "steps=1/0"), "line 5: ZeroDivisionError: division by zero"),
        ("def config(): return open('/nowhere/at/all')", "FileNotFoundError"),
        (
            "def config(): raise AssertionError('no')",
            "AssertionError: no",
        ),
    ],
)
def test_what_a_file_does_wrong_is_said_with_its_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_config_file(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


MADE_OF = (
    "from dataclasses import replace; import numpy as np; "
    "from llmjax.run.config.schema import Config; "
    "from llmjax.model.config import ModelConfig; from llmjax.data.config import DataConfig; "
    "from llmjax.data.text.text_files import TextSource; "
    "from llmjax.model.rope import Llama3Scaling\ndef config(*, size=3):\n    return "
)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "Config(model=ModelConfig(d_modle=3))",
            "line 3: TypeError: ModelConfig has no field d_modle; did you mean d_model?",
        ),
        (
            "replace(Config(), stepz=3)",
            "line 3: TypeError: Config has no field stepz; did you mean steps?",
        ),
        ("Config(zzzz=3)", "line 3: TypeError: Config has no field zzzz"),
        ("TextSource()", "line 3: TypeError: TextSource needs paths"),
        (
            "Llama3Scaling()",
            "line 3: TypeError: Llama3Scaling needs factor and original_length",
        ),
        (
            "ModelConfg()",
            "line 3: NameError: name 'ModelConfg' is not defined; did you mean ModelConfig?",
        ),
        (
            "AdamWConfig()",
            "line 3: NameError: AdamWConfig is not imported; add: from llmjax import AdamWConfig",
        ),
        (
            "Config().modle",
            "line 3: AttributeError: 'Config' object has no attribute 'modle'; did you mean model?",
        ),
        (
            "setattr(Config(), 'steps', 3)",
            "line 3: FrozenInstanceError: a config does not change; use "
            "dataclasses.replace(config, steps=...)",
        ),
        ("Config(model=ModelConfig(d_model='3'))", "model.d_model: '3' is not an integer"),
        ("Config(steps=np.int64(3))", "steps: np.int64(3) is not an integer"),
        ("Config(steps=True)", "steps: True is not an integer"),
        ("Config(model=None)", "model: None is not a section of fields"),
        (
            "Config(data=DataConfig(sources=(TextSource('x.txt'),)))",
            "data.sources.0.paths: 'x.txt' is not a list: text ...",
        ),
        # Not config(): Python 3.13.0 does not count calls of functions with keywords alone.
        ("(lambda f: f(f))(lambda f: f(f))", "RecursionError: maximum recursion depth exceeded"),
        ("Config", "config() returns <class 'llmjax.run.config.schema.Config'>"),
    ],
)
def test_what_was_meant_is_said_with_what_is_wrong(tmp_path, value, message):
    path = write(tmp_path, MADE_OF + value)
    with pytest.raises(UserError) as caught:
        load_config_file(path)
    assert str(caught.value).removeprefix("config: ").startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "from llmjax.run.config import Confg",
            "ImportError: no Confg in llmjax.run.config; did you mean",
        ),
        (
            "from llmjax.run.config import LionConfig",
            "ImportError: no LionConfig in llmjax.run.config; write: from llmjax import LionConfig",
        ),
        ("class Own(Exception): pass\nraise Own('x')", "line 2: Own: x"),
        ("def config(size): pass", "config() needs size; give every argument a default"),
        ("\nraise SystemExit(3)", "line 2: the file ends the program; let config() return"),
        ("def config():\nreturn 3", "line 2: IndentationError: expected an indented block"),
        ("x = '\0'", "Error: source code string cannot contain null bytes"),
    ],
)
def test_whatever_a_file_does_is_one_line_about_it(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_config_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_mistake_in_a_neighbour_is_said_with_its_name(tmp_path):
    write(tmp_path, GOOD.replace("steps=7", "stepz=7"), "neighbour_of_mine.py")
    path = write(tmp_path, "import neighbour_of_mine\nconfig = neighbour_of_mine.config\n")
    with pytest.raises(UserError) as caught:
        load_config_file(path)
    message = (
        "neighbour_of_mine.py line 5: TypeError: Config has no field stepz; did you mean steps?"
    )
    assert str(caught.value) == f"{path}: {message}"


def test_an_interrupt_of_a_file_passes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        load_config_file(write(tmp_path, "raise KeyboardInterrupt"))


def test_what_a_file_prints_is_no_result(tmp_path, capsys):
    load_config_file(write(tmp_path, GOOD + "print('made')\n"))
    assert capsys.readouterr() == ("", "made\n")


def test_a_file_that_changes_the_path_of_imports_leaves_it_as_it_was(tmp_path):
    before = list(sys.path)
    load_config_file(write(tmp_path, "import sys\nsys.path.clear()\n" + GOOD))
    assert sys.path == before


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="no such config file; presets: "):
        load_config_file(tmp_path / "zzzzzzzz.py")
    with pytest.raises(UserError, match="is a folder"):
        load_config_file(tmp_path)


def test_presets_go_by_their_bare_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_config_file("quickstart"), Config)
    with pytest.raises(UserError, match="did you mean the preset quickstart"):
        load_config_file("configs/quikstart.py")


def test_a_file_of_ones_own_comes_before_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, GOOD, "quickstart")
    assert load_config_file("quickstart") == Config(steps=7)


def test_presets_are_found():
    assert {"quickstart", "gpt2_124m", "llama_1b", "llama_8b"} <= set(presets())
