import json
import logging
import os
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

from llmjax import cli
from llmjax.config.fields import hints, rows
from llmjax.errors import Stopped, UserError
from llmjax.run import Run


def run(capsys, *argv: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout, lines of stderr."""
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def process(*argv: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "llmjax", *argv], capture_output=True, text=True, **options
    )


def stub(monkeypatch, module: str, function) -> None:
    """Puts a module with one function of its own name in the place of a verb's."""
    name = module.rpartition(".")[2]
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{name: function}))


def test_help_lists_the_verbs_and_starts_nothing():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = process("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    for verb, about in cli.VERBS.items():
        assert any(line.split(maxsplit=1)[:1] == [verb] for line in done.stdout.splitlines())
        assert about in done.stdout
    assert after.ru_utime - before.ru_utime < 0.5


def test_help_does_not_import_jax():
    code = (
        "import sys; from llmjax.cli import main; main(['--help']); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_no_words_is_a_mistake_that_shows_the_verbs(capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert any("train" in line for line in err)


@pytest.mark.parametrize("verb", ["evaluate", "generate", "report", "train", "tokenizer"])
def test_help_of_a_verb_shows_every_field_with_its_meaning_and_default(capsys, verb):
    code, out, err = run(capsys, verb, "--help")
    assert (code, err) == (0, [])
    if verb == "train":
        from llmjax.config import Config

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


def test_version(capsys):
    from llmjax import __version__

    assert run(capsys, "--version") == (0, f"llmjax {__version__}\n", [])


@pytest.mark.parametrize(
    ("argv", "messages"),
    [
        ("trian x", ["trian: no such verb; did you mean train?"]),
        ("qqq", ["qqq: no such verb; choose one of train, evaluate, generate, report, tokenizer"]),
        ("train", ["CONFIG: missing; usage: llmjax train CONFIG"]),
        ("train nowhere.py", ["nowhere.py: no such config file; presets: "]),
        (
            "train quikstart",
            ["quikstart: no such config file; did you mean the preset qu"],
        ),
        ("train smoke more", ["more: unexpected; usage: llmjax train CONFIG"]),
        ("train smoke -steps 3", ["-steps 3: unexpected; did you mean --steps?"]),
        ("train smoke steps=3", ["steps=3: unexpected; did you mean --steps=3?"]),
        ("train smoke --stepz 3", ["--stepz: no such field; did you mean --steps?"]),
        ("train smoke --steps 3 4", ["4: unexpected"]),
        (
            "train smoke --steps many --optimizer.lerning-rate 3 --model.gated maybe",
            [
                "--steps: 'many' is not an integer",
                "--optimizer.lerning-rate: no such field; did you mean --optimizer.learning-rate?",
                "maybe: unexpected",
            ],
        ),
        (
            "train smoke --optimizer adam",
            ["--optimizer: 'adam' is no kind of it; did you mean"],
        ),
        ("train smoke --optimizer.learning-rate nan", ["optimizer.learning_rate: nan"]),
        (
            "train smoke --steps 0 --data.length 999 --optimizer.schedule.warmup-steps 0",
            ["steps: 0 is not positive", "data.length: 999 tokens, but model.max_length is 64"],
        ),
        ("train smoke --data.sources nothing", ["--data.sources: 'nothing' is no kind of it"]),
        ("train smoke --run-dir /dev/null/x", ["run_dir: /dev/null is a file, not a folder"]),
        ("evaluate", ["RUN: missing; usage: llmjax evaluate RUN"]),
        ("evaluate nowhere --stride wide", ["--stride: 'wide' is not an integer or none"]),
        ("evaluate nowhere", ["nowhere: no such run folder"]),
        ("evaluate nowhere --dtype float16", ["--dtype: 'float16' is not one of float32|bfloat16"]),
        ("generate nowhere --temprature 1", ["--temprature: no such field; did you mean --temper"]),
        (
            "generate nowhere --top-p 2 --temperature -1",
            ["--top-p: must be above 0", "--temperature: must be"],
        ),
        ("generate nowhere --prompt", ["nowhere: no such run folder"]),
        ("report nowhere", ["nowhere: no such run folder"]),
        ("tokenizer", ["tokenizer nothing: no such verb; usage: llmjax tokenizer train FOLDER"]),
        ("tokenizer trian x", ["tokenizer trian: no such verb"]),
        ("tokenizer train", ["FOLDER: missing"]),
    ],
)
def test_mistakes_are_a_line_each_and_exit_with_2(capsys, tmp_path, monkeypatch, argv, messages):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *argv.split())
    assert (code, out) == (2, "")
    assert len(err) >= len(messages)
    for message in messages:
        assert any(line.startswith(f"llmjax: error: {message}") for line in err), err
    if len(messages) == 1 and "optimizer" not in argv:
        assert len(err) == 1, err
    assert list(tmp_path.iterdir()) == []


def test_faults_of_ours_exit_with_1_and_hint_at_the_traceback(capsys, monkeypatch):
    def report(run, out):
        raise ZeroDivisionError("by\nzero")

    stub(monkeypatch, "llmjax.report", report)
    code, out, err = run(capsys, "report", "x")
    assert (code, out) == (1, "")
    assert err == [
        "llmjax: fault: ZeroDivisionError: by zero; rerun with --debug for the traceback"
    ]
    code, _, err = run(capsys, "report", "x", "--debug")
    assert code == 1
    assert any("Traceback" in line for line in err)


def test_debug_shows_where_a_mistake_was_found(capsys, monkeypatch):
    def report(run, out):
        raise UserError("x", "wrong", "mend it")

    stub(monkeypatch, "llmjax.report", report)
    code, _, err = run(capsys, "report", "x", "--debug")
    assert code == 2
    assert any("Traceback" in line for line in err)
    assert err[-1] == "llmjax: error: x: wrong; mend it"


def test_interrupts_are_one_line(capsys, monkeypatch):
    def report(run, out):
        raise KeyboardInterrupt

    stub(monkeypatch, "llmjax.report", report)
    assert run(capsys, "report", "x") == (130, "", ["llmjax: interrupted"])


def test_the_log_is_plain_lines_on_stderr(capsys, monkeypatch):
    def report(run, out):
        logging.getLogger("llmjax.somewhere").warning("all %d steps are done", 3)
        return "a path"

    stub(monkeypatch, "llmjax.report", report)
    assert run(capsys, "report", "x") == (0, "a path\n", ["llmjax: all 3 steps are done"])
    assert logging.getLogger("llmjax").propagate


def test_a_training_stopped_by_a_signal_exits_with_75(capsys, monkeypatch, tmp_path):
    def train(config):
        raise Stopped(7, "SIGTERM")

    stub(monkeypatch, "llmjax.train", train)
    code, out, err = run(capsys, "train", "smoke", "--run-dir", str(tmp_path))
    assert (code, out) == (75, "")
    assert err == ["llmjax: SIGTERM: saved step 7; start the same command again to go on"]


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

    stub(monkeypatch, "llmjax.train", train)
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
        sys.modules, "llmjax.train", types.SimpleNamespace(train=lambda c: Path(folder))
    )
    _, out, _ = run(capsys, *words, "--json")
    assert json.loads(out) == {
        "run": folder,
        "step": 20,
        "heldout": {"step": 20, "loss": 2.0, "bits_per_byte": 2.5},
    }


def test_a_reader_that_leaves_is_no_fault():
    command = f"{sys.executable} -m llmjax generate --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_is_the_last_line_of_stdout(capsys, monkeypatch):
    class Result:
        def to_dict(self):
            return {"bits_per_byte": 1.5, "mfu": float("nan"), "list": [float("inf"), "é"]}

    stub(monkeypatch, "llmjax.evaluate", lambda run, **fields: Result())
    code, out, _ = run(capsys, "evaluate", "x", "--json")
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

    stub(monkeypatch, "llmjax.evaluate", evaluate)
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

    stub(monkeypatch, "llmjax.generate", generate)
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


def test_the_module_is_the_command():
    done = process("evalute", "x")
    assert done.returncode == 2
    assert done.stderr == "llmjax: error: evalute: no such verb; did you mean evaluate?\n"
    assert os.path.basename(sys.executable) not in done.stderr
