import json
import sys
import types
from pathlib import Path

import pytest
from command import run, stub

from llmjax.run.config.fields import hints, rows
from llmjax.run.folder import Run


@pytest.mark.parametrize(
    "verb", "evaluate choose harness generate chat embed report train tokenizer".split()
)
def test_help_of_a_verb_shows_every_field_with_its_meaning_and_default(capsys, verb):
    code, out, err = run(capsys, verb, "--help")
    assert (code, err) == (0, [])
    if verb == "train":
        from llmjax.run.config.schema import Config

        options = Config()
    else:
        options = sys.modules[f"llmjax.cli.{verb}"].VERB.options
    words = " ".join(out.split())
    for row in rows(options):
        assert f" {row.flag} " in words
        assert row.doc, f"{row.name} has no docstring"
        assert row.doc in words
    assert words.count("(default: ") == len(list(rows(options)))
    for flag in ("--json", "--debug"):
        assert flag in words


def test_help_of_train_shows_the_values_of_the_config(capsys):
    _, out, _ = run(capsys, "train", "smoke", "--help")
    assert "(default: runs/smoke)" in " ".join(out.split())
    assert "--data.sources.0.weight" in out


def test_train_hands_over_the_changed_config_and_tells_where_the_run_stands(
    capsys, monkeypatch, tmp_path
):
    seen = []

    def train(config):
        seen.append(config)
        checkpoint = Run.create(config).checkpoints / "20"
        checkpoint.mkdir(parents=True)
        lines = [{"kind": "eval", "step": s, "loss": 2.0, "bits_per_byte": s / 8} for s in (10, 20)]
        lines.append({"kind": "train", "step": 20, "loss": 1.0})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "new" / "metrics.jsonl").write_text(text)
        return tmp_path / "new"

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
    assert out == f"{folder} at step 20: held-out text takes 2.5000 bits per byte " + (
        "(2.0000 nats per token)\n"
    )
    assert seen[0].optimizer.learning_rate == 3e-4
    assert seen[0].run_dir == folder
    assert seen[0].log.profile == 5
    monkeypatch.setitem(
        sys.modules, "llmjax.training", types.SimpleNamespace(train=lambda c: Path(folder))
    )
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

    stub(monkeypatch, "evaluate", lambda run, **fields: Result())
    code, out, _ = run(capsys, "evaluate", "x", "--data", "some.txt", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == {
        "bits_per_byte": 1.5,
        "mfu": None,
        "list": [None, "é"],
    }


def test_options_reach_the_function_of_the_verb(capsys, monkeypatch):
    seen = {}

    def evaluate(run, **fields):
        seen.update(fields, run=run)
        return "a table"

    stub(monkeypatch, "evaluate", evaluate)
    argv = "evaluate runs/x --data a.txt b/*.txt --context 64 --stride=16 --mesh.tensor 2"
    code, out, _ = run(capsys, *argv.split())
    assert (code, out) == (0, "a table\n")
    assert seen["run"] == "runs/x"
    assert seen["data"] == ("a.txt", "b/*.txt")
    assert (seen["context"], seen["stride"], seen["step"]) == (64, 16, None)
    assert seen["mesh"].tensor == 2


def test_prompts_are_given_one_by_one(capsys, monkeypatch):
    seen = {}

    def generate(run, prompts, config, **fields):
        seen.update(fields, run=run, prompts=prompts, config=config)
        return []

    stub(monkeypatch, "generate", generate)
    argv = ["generate", "--prompt", "one", "--prompt=--two", "--top-p", "0.9", "runs/x"]
    assert run(capsys, *argv)[0] == 0
    assert seen["run"] == "runs/x"
    assert seen["prompts"] == ("one", "--two")
    assert seen["config"].top_p == 0.9
    assert seen["out"] is sys.stdout or seen["out"] is not None
    run(capsys, *argv, "--json")
    assert seen["out"] is None


def test_options_of_generate_are_those_of_decoding_and_more():
    from llmjax.cli.generate import Options
    from llmjax.decoding.config import DecodingConfig

    assert set(hints(DecodingConfig)) < set(hints(Options))
    assert Options(top_k=3).decoding() == DecodingConfig(top_k=3)
