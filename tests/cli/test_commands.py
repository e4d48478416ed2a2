import inspect
import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from command import run, stub

import llmjax
from llmjax.cli.main import find_command
from llmjax.cli.registry import COMMANDS, Entry
from llmjax.cli.train import SHOWN
from llmjax.run.config.fields import rows
from llmjax.run.config.files import load_config_file, presets
from llmjax.run.folder import Run

FUNCTIONS = {"fill-mask": "fill_mask", "import": "import_model"}
"""Functions that have not the name of their command."""
NO_OPTIONS = set(
    "train plan scale skill data tokenizer inspect presets models runs serve completion".split()
)
"""Commands that share no options with a function of the library."""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_every_field_with_its_meaning_and_default(capsys, name):
    code, out, err = run(capsys, name, "--help", "all")
    assert (code, err) == (0, [])
    command = find_command(name)
    options = command.options()
    words = " ".join(out.split())
    for row in rows(options):
        assert f" {row.flag} " in words
        assert row.doc, f"{row.name} has no docstring"
        assert row.doc in words
    assert words.count("(default: ") == len(list(rows(options)))
    for flag in ("--json", "--debug", *(f"--{flag}" for flag in command.flags)):
        assert flag in words


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - NO_OPTIONS))
def test_a_command_and_its_function_take_the_same_options(name):
    options = find_command(name).options
    function = getattr(llmjax, FUNCTIONS.get(name, name))
    parameters = inspect.signature(function).parameters
    function_options = parameters["options"].annotation.__args__[0]
    assert issubclass(options, function_options)
    defaults = options()
    for field in fields(function_options):
        assert parameters[field.name].default == getattr(defaults, field.name)
    further = {field.name for field in fields(options)} - {
        field.name for field in fields(function_options)
    }
    assert further == {"fill-mask": {"text"}, "import": {"base"}, "search": {"answer"}}.get(
        name, set()
    )


def test_help_of_train_shows_the_values_of_the_config(capsys):
    _, out, _ = run(capsys, "train", "smoke", "--help", "all")
    assert "(default: runs/smoke)" in " ".join(out.split())
    assert "--data.sources.0.weight" in out


def test_help_of_train_shows_the_main_fields_first_and_sections_on_request(capsys):
    code, short, err = run(capsys, "train", "smoke", "--help")
    assert (code, err) == (0, [])
    short = " ".join(short.split())
    assert short.count("(default: ") == len(SHOWN) - 1  # bytes have no vocab_size
    assert "(default: runs/smoke)" in short
    assert "--lr, --optimizer.learning-rate number" in short
    _, section, _ = run(capsys, "train", "smoke", "--help", "optimizer")
    flags = [line.split()[0] for line in section.splitlines() if line.startswith("  --")]
    assert "--optimizer.schedule.warmup-steps" in flags
    assert all(flag.startswith("--optimizer") for flag in flags)
    assert f"usage: llmjax train {'CONFIG'}" in run(capsys, "train", "--help", "smoke")[1]


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--lr 0.5", "optimizer.learning_rate", 0.5),
        ("--learning-rate 0.5", "optimizer.learning_rate", 0.5),
        ("--batch-size=3", "data.batch_size", 3),
        ("--length 64", "data.length", 64),
        ("--model gpt2_124m", "model.d_model", 768),
        ("--model.d-model 384 --model gpt2_124m", "model.d_model", 384),
    ],
)
def test_short_names_of_training_fields(capsys, monkeypatch, words, field, value):
    code, out, err = run(capsys, "train", "smoke", *words.split(), "--print-config", "--json")
    assert (code, err) == (0, [])
    config = json.loads(out)["config"]
    for name in field.split("."):
        config = config[name]
    assert config == value


def test_an_unknown_model_preset_is_refused(capsys):
    code, _, err = run(capsys, "train", "smoke", "--model", "gpt2_124", "--print-config")
    assert code == 2
    assert "did you mean the preset gpt2_124m?" in err[0]


@pytest.mark.parametrize("name", presets())
def test_a_printed_config_makes_the_same_config(capsys, tmp_path, name):
    code, out, err = run(capsys, "train", name, "--seed", "7", "--print-config")
    assert (code, err) == (0, [])
    (tmp_path / "my.py").write_text(out)
    assert load_config_file(tmp_path / "my.py") == replace(load_config_file(name), seed=7)


def test_train_hands_over_the_changed_config_and_tells_where_the_run_stands(
    capsys, monkeypatch, tmp_path
):
    seen = []

    def train(config, program):
        seen.append(config)
        checkpoint = Run.create(config).checkpoints / "20"
        checkpoint.mkdir(parents=True)
        lines = [{"kind": "eval", "step": s, "loss": 2.0, "bits_per_byte": s / 8} for s in (10, 20)]
        lines.append({"kind": "train", "step": 20, "loss": 1.0})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "new" / "metrics.jsonl").write_text(text)
        return Run(tmp_path / "new")

    stub(monkeypatch, "train", train)
    folder = str(tmp_path / "new")
    words = [
        "train",
        "--optimizer.learning-rate",
        "3e-4",
        "smoke",
        "--run-dir",
        folder,
        "--profile",
    ]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert out == (f"{folder} at step 20: validation 2.5000 bits per byte, 2.0000 nats per token\n")
    assert seen[0].optimizer.learning_rate == 3e-4
    assert seen[0].run_dir == folder
    assert seen[0].log.profile == 5
    stub(monkeypatch, "train", lambda config, program: Run(Path(folder)))
    _, out, _ = run(capsys, *words, "--json")
    assert json.loads(out) == {
        "run": folder,
        "step": 20,
        "heldout": {"step": 20, "loss": 2.0, "bits_per_byte": 2.5},
    }


def test_json_is_the_last_line_of_stdout(capsys, monkeypatch):
    class Result:
        def to_dict(self):
            return {"bits_per_byte": 1.5, "mfu": float("nan"), "list": [float("inf"), "é"]}

    stub(monkeypatch, "evaluate", lambda run, options, progress: Result())
    code, out, _ = run(capsys, "evaluate", "x", "--data", "some.txt", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == {
        "bits_per_byte": 1.5,
        "mfu": None,
        "list": [None, "é"],
    }


def test_options_reach_the_function_of_the_command(capsys, monkeypatch):
    seen = {}

    class Result:
        to_dict = dict

        def __str__(self):
            return "a table"

    def evaluate(run, options, progress):
        seen.update(run=run, options=options)
        return Result()

    stub(monkeypatch, "evaluate", evaluate)
    argv = "evaluate runs/x --data a.txt b/*.txt --context 64 --stride=16 --mesh.tensor 2"
    code, out, _ = run(capsys, *argv.split())
    assert (code, out) == (0, "a table\n")
    assert seen["run"] == "runs/x"
    options = seen["options"]
    assert options.data == ("a.txt", "b/*.txt")
    assert (options.context, options.stride, options.step) == (64, 16, None)
    assert (options.mesh.tensor, options.mesh.fsdp) == (2, 1)


def test_prompts_are_given_one_by_one(capsys, monkeypatch):
    seen = {}

    def generate(run, options, out):
        seen.update(run=run, options=options, out=out)
        return []

    stub(monkeypatch, "generate", generate)
    argv = ["generate", "--prompt", "one", "--prompt=--two", "--top-p", "0.9", "runs/x"]
    assert run(capsys, *argv)[0] == 0
    assert seen["run"] == "runs/x"
    assert seen["options"].prompt == ("one", "--two")
    assert seen["options"].top_p == 0.9
    assert seen["out"] is sys.stdout or seen["out"] is not None
    run(capsys, *argv, "--json")
    assert seen["out"] is None


def test_a_new_command_is_one_line_of_the_registry(capsys, monkeypatch, tmp_path):
    (tmp_path / "shout.py").write_text(
        "from dataclasses import dataclass\n"
        "from llmjax.cli.command import Command, Output\n"
        "from llmjax.run.config.options import keyword_options\n"
        "@dataclass(frozen=True)\n"
        "class ShoutOptions:\n"
        "    times: int = 1\n"
        "    'How often.'\n"
        "@keyword_options()\n"
        "def shout(text: str, options: ShoutOptions) -> str:\n"
        "    return text.upper() * options.times\n"
        "def run(call):\n"
        "    text = shout(*call.words, options=call.options)\n"
        "    return Output({'text': text}, text)\n"
        "SHOUT = Command('Shouts.', ('TEXT',), ShoutOptions, run, compiles=False)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "shout", Entry("shout:SHOUT", "text in capitals"))
    assert "  shout      text in capitals\n" in run(capsys, "--help")[1]
    assert run(capsys, "shout", "a", "--times", "2") == (0, "AA\n", [])
    assert json.loads(run(capsys, "shout", "a", "--json")[1]) == {"text": "A"}
    assert "--times integer\n        How often. (default: 1)" in run(capsys, "shout", "-h")[1]
    assert run(capsys, "shout", "a", "--tims", "2")[0] == 2
