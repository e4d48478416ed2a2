import pytest

from llmjax.config import Config, load_config_file, presets, to_json
from llmjax.errors import UserError

GOOD = """
from llmjax.config import Config

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
