"""`llmjax presets`, `llmjax runs` and `llmjax completion`."""

import json
import subprocess
from dataclasses import replace

import pytest
from command import run

import runs
from llmjax.cli.completion import SHELLS
from llmjax.cli.registry import COMMANDS
from llmjax.convert.families.registry import FAMILIES
from llmjax.convert.sources import SAMPLES
from llmjax.run.config.files import presets
from llmjax.run.folder import Run
from llmjax.scoring.config import EvaluationConfig
from llmjax.scoring.evaluation_tasks import ChooseTask


def test_every_preset_says_what_it_is_for_and_what_it_needs(capsys):
    code, out, err = run(capsys, "presets", "--json")
    assert (code, err) == (0, [])
    listed = json.loads(out)["presets"]
    assert [preset["name"] for preset in listed] == list(presets())
    for preset in listed:
        assert preset["about"], preset["name"]
        assert preset["about"].endswith("."), preset["name"]  # not cut off in a sentence
        assert preset.get("hardware"), preset["name"]


def test_presets_fit_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = run(capsys, "presets")
    assert max(map(len, out.splitlines())) <= 80
    assert "quickstart\n    A small language model" in out


def test_every_family_and_sample_is_listed_with_sizes(capsys):
    code, out, err = run(capsys, "models")
    assert (code, err) == (0, [])
    for name in SAMPLES:
        assert f"sample:{name} " in out
    for family in FAMILIES.values():
        assert f"  {family.model_type} " in out
        for example, size in family.examples.items():
            assert f"{example} ({size})" in out
            assert size[-1] in "MB"
            assert float(size[:-1]) > 0
    assert max(map(len, out.splitlines())) <= 80


@pytest.fixture
def two_runs(tmp_path):
    """Two runs that differ in their learning rate; the second one has logged evaluations."""
    for number, rate in enumerate((0.01, 0.02)):
        config = runs.config(tmp_path, run_dir=str(tmp_path / f"runs/{'ab'[number]}"))
        optimizer = replace(config.optimizer, learning_rate=rate)
        Run.create(replace(config, optimizer=optimizer))
    lines = [
        {"kind": "train", "step": 1, "time": 4e9, "loss": 3.0},
        {"kind": "eval", "step": 1, "time": 4e9, "loss": 3.0, "bits_per_byte": 2.5},
        {"kind": "eval", "step": 2, "time": 4e9 + 1, "loss": 2.0, "bits_per_byte": 1.25},
        {"kind": "eval", "step": 3, "time": 4e9 + 2, "loss": 2.5, "bits_per_byte": 1.5},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "runs/b/metrics.jsonl").write_text(text)
    (tmp_path / "runs/b/checkpoints/3").mkdir(parents=True)
    return tmp_path / "runs"


def test_runs_are_listed_by_time_with_best_figure_and_differences(capsys, two_runs):
    code, out, err = run(capsys, "runs", "--folder", str(two_runs), "--json")
    assert (code, err) == (0, [])
    first, second = json.loads(out)["runs"]
    assert (first["run"], first["best"]) == (str(two_runs / "a"), None)
    assert second["best"] == {"metric": "bits_per_byte", "value": 1.25}
    assert (second["step"], second["steps"]) == (3, 8)
    assert second["time"] == 4e9 + 2
    assert first["changes"] == {"optimizer.learning_rate": 0.01}
    assert second["changes"] == {"optimizer.learning_rate": 0.02}
    _, out, _ = run(capsys, "runs", "--folder", str(two_runs))
    assert "step 3 of 8  bits per byte 1.2500\n    optimizer.learning_rate 0.02" in out


def test_the_best_figure_of_a_task_is_by_the_metric_that_chooses(capsys, two_runs):
    lines = [
        {"kind": "eval", "step": s, "time": 4e9, "loss": 1.0, "accuracy": a, "examples": 9}
        for s, a in ((1, 0.5), (2, 0.75), (3, 0.25))
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (two_runs / "b/metrics.jsonl").write_text(text)
    _, out, _ = run(capsys, "runs", "--folder", str(two_runs))
    assert "accuracy 75.00 %" in out


def test_a_metric_of_tasks_measured_while_training_decides(capsys, tmp_path):
    quiz = EvaluationConfig(metric="quiz.accuracy", tasks=(ChooseTask(("quiz.csv",)),))
    Run.create(runs.config(tmp_path, run_dir=str(tmp_path / "runs/a"), evaluation=quiz))
    lines = [{"kind": "eval", "step": 1, "time": 4e9, "loss": 3.0, "bits_per_byte": 2.5}] + [
        {"kind": "tasks", "step": step, "time": 4e9, "quiz.accuracy": share}
        for step, share in ((1, 0.25), (2, 0.5), (3, None))
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "runs/a/metrics.jsonl").write_text(text)
    _, out, _ = run(capsys, "runs", "--folder", str(tmp_path / "runs"))
    assert out.rstrip().endswith("quiz accuracy 50.00 %")


def test_a_damaged_run_is_named_and_the_others_are_listed(capsys, two_runs):
    (two_runs / "a/config.json").write_text("{")
    code, out, _ = run(capsys, "runs", "--folder", str(two_runs))
    assert code == 0
    assert f"{two_runs / 'a'}" in out.splitlines()[0]
    assert "config.json" in out.splitlines()[0]
    assert "bits per byte 1.2500" in out


def test_a_folder_without_runs_says_how_to_make_one(capsys, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        code, out, err = run(capsys, "runs", "--folder", str(folder))
        assert (code, out) == (2, "")
        assert str(folder) in err[0]
        assert "llmjax train quickstart" in err[0]


def completed(script: str, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in ("llmjax", *words))
    code = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _llmjax 2>/dev/null\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    return set(subprocess.run(["bash", "-c", code], capture_output=True, text=True).stdout.split())


def test_bash_completes_commands_options_and_presets(capsys):
    code, script, err = run(capsys, "completion", "bash")
    assert (code, err) == (0, [])
    assert completed(script, "") == set(COMMANDS)
    assert completed(script, "ex") == {"export"}
    assert completed(script, "train", "mlm_") == {"mlm_quickstart", "mlm_texts"}
    assert completed(script, "train", "x", "--optimizer.l") == {"--optimizer.learning-rate"}
    assert "--max-new-tokens" in completed(script, "generate", "--")
    assert completed(script, "tokenizer", "tr") == {"train"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_is_offered_every_command_and_option(capsys, shell):
    _, script, _ = run(capsys, "completion", shell)
    for word in (*COMMANDS, "model.d-model", "max-new-tokens"):
        assert word in script
    assert script.count("\n") > len(COMMANDS)


def test_an_unknown_shell_is_refused(capsys):
    code, out, err = run(capsys, "completion", "tcsh")
    assert (code, out) == (2, "")
    assert err == ["llmjax: error: tcsh: has no completion script; choose bash, zsh, fish"]
