import dataclasses
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmjax.data.tables.files import FileTable
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig
from llmjax.optimizers.standard import AdamWConfig, SgdConfig
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.config.checks import MAY_CHANGE, differences
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.storage.writing import write_atomically
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.extractive_qa import ExtractiveQATask


@pytest.fixture
def config(tmp_path):
    return Config(run_dir=str(tmp_path / "runs" / "one"))


def test_a_new_run_stores_its_config(config):
    run = Run.create(config)
    assert Run.open(config.run_dir).config() == config
    assert run.folder.is_dir()
    assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "config.json"]


def test_the_same_config_goes_on(config):
    first = Run.create(config).config_path.stat().st_mtime_ns
    assert Run.create(config).config_path.stat().st_mtime_ns == first


def test_another_config_is_refused_and_the_fields_named(config):
    (Run.create(config).checkpoints / "10").mkdir(parents=True)
    changed = dataclasses.replace(config, seed=3, optimizer=AdamWConfig(learning_rate=0.5))
    with pytest.raises(UserError) as caught:
        Run.create(changed)
    for part in ("seed 0 -> 3", "optimizer.learning_rate 0.001 -> 0.5", "--run-dir"):
        assert part in str(caught.value)
    assert Run.open(config.run_dir).config() == config


def test_a_run_that_logged_a_step_is_not_begun_anew(config):
    Run.create(config).metrics_file.write_text("{}")
    with pytest.raises(UserError, match="seed 0 -> 3"):
        Run.create(dataclasses.replace(config, seed=3))


def test_a_run_that_never_took_a_step_is_begun_anew_with_any_config(config):
    run = Run.create(config)
    run.tokenizer.mkdir()
    changed = dataclasses.replace(config, seed=3)
    with run.lock(), pytest.raises(UserError, match="another training writes here"):
        Run.create(changed)
    assert run.tokenizer.is_dir()
    assert Run.create(changed).config() == changed
    assert not run.tokenizer.exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tasks": (ClassificationTask(train=(FileTable(("a.csv",)),)),)}, "tasks"),
        ({"init_from": "runs/other"}, "init_from"),
        ({"model": ModelConfig(lora=LoraConfig(rank=2))}, "model.lora"),
    ],
)
def test_an_imported_model_is_not_given_what_it_has_no_parameters_for(config, changes, named):
    run = Run.create(config)
    (run.checkpoints / "0").mkdir(parents=True)
    (run.folder / "origin.json").write_text("{}")
    before = run.config_path.read_bytes()
    with pytest.raises(UserError) as caught:
        Run.create(dataclasses.replace(config, **changes))
    assert f"is an imported model, to which {named} cannot be added" in str(caught.value)
    assert f"--init-from {run.folder} --run-dir" in str(caught.value)
    assert run.config_path.read_bytes() == before
    # With another seed and other steps it is trained as it stands.
    assert Run.create(dataclasses.replace(config, seed=3)).config().seed == 3


def test_a_config_is_not_changed_under_a_training_that_runs(config):
    run = Run.create(config)
    changed = dataclasses.replace(config, steps=5)
    with run.lock(), pytest.raises(UserError, match="another training writes here"):
        Run.create(changed)
    assert run.config() == config


def test_fields_that_do_not_decide_the_run_may_change(config):
    Run.create(config)
    changed = dataclasses.replace(
        config,
        steps=config.steps + 5,
        mesh=MeshConfig(data=2),
        data=dataclasses.replace(config.data, workers=3),
        compute=dataclasses.replace(config.compute, remat="full", dtype="bfloat16"),
    )
    assert Run.create(changed).config() == changed


def test_fields_that_may_change_exist():
    from llmjax.run.config.fields import annotation_at

    for name in MAY_CHANGE:
        path = name.replace("*", "0").split(".")
        assert annotation_at(Config, tuple(path)) is not None, name


def test_how_tasks_tell_their_answers_may_change(config):
    def run_of(**fields):
        return dataclasses.replace(config, tasks=(ExtractiveQATask(**fields),))

    (Run.create(run_of()).checkpoints / "10").mkdir(parents=True)
    changed = run_of(no_answer_threshold=1.5)
    assert Run.create(changed).config() == changed
    with pytest.raises(UserError, match=r"tasks\.0\.stride 64 -> 8"):
        Run.create(run_of(stride=8))


def test_a_folder_that_moved_is_the_same_run(config, tmp_path):
    run = Run.create(config)
    moved = tmp_path / "elsewhere"
    run.folder.rename(moved)
    assert Run.create(dataclasses.replace(config, run_dir=str(moved))).config().run_dir == str(
        moved
    )


def test_differences():
    config = Config()
    assert differences(config, config) == {}
    assert differences(config, dataclasses.replace(config, seed=1)) == {"seed": (0, 1)}
    (name,) = differences(config, dataclasses.replace(config, optimizer=SgdConfig()))
    assert name == "optimizer"


@pytest.mark.parametrize("how", ["missing", "file", "empty", "nested"])
def test_folders_that_are_no_runs(how, config, tmp_path):
    Run.create(config)
    path, message = {
        "missing": (
            tmp_path / "runs" / "two",
            f"no such run folder; runs in {tmp_path / 'runs'}: one",
        ),
        "file": (tmp_path / "file", "is a file, not a run folder"),
        "empty": (tmp_path / "empty", "it has no config.json"),
        "nested": (tmp_path / "runs", f"it has no config.json; runs in {tmp_path / 'runs'}: one"),
    }[how]
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        Run.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_folder_with_other_things_in_it_is_left_alone(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"it holds thesis\.tex; choose another --run-dir"):
        Run.create(dataclasses.replace(config, run_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_written_is_named():
    with pytest.raises(UserError, match="cannot be written"):
        Run.create(Config(run_dir="/proc/llmjax"))


def test_only_finished_checkpoints_are_listed(config):
    run = Run.create(config)
    assert run.steps() == []
    for name in ("10", "2", "30.orbax-checkpoint-tmp-1", "note"):
        (run.checkpoints / name).mkdir(parents=True)
    (run.checkpoints / "40").write_text("")
    assert run.steps() == [2, 10]


def test_writes_are_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


HOLD = """
import sys, time
from llmjax.run.folder import Run
with Run.open(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_trainings_cannot_share_a_folder_and_a_killed_one_leaves_no_lock(config):
    run = Run.create(config)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"process {holder.pid}"), run.lock():
            pass
    finally:
        holder.kill()
        holder.wait()
    with run.lock():
        assert (run.folder / ".lock").read_text() == str(os.getpid())
    with run.lock():
        pass


def test_metrics_are_columns(tmp_path):
    run = Run(tmp_path)
    assert run.metrics() == {}
    lines = [
        {"kind": "train", "step": 1, "time": 1.0, "loss": 3.0},
        {"kind": "eval", "step": 1, "time": 2.0, "loss": 2.5, "bits_per_byte": 2.0},
        {"kind": "train", "step": 2, "time": 3.0, "loss": None, "mfu": 0.5},
    ]
    run.metrics_file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run.metrics() == {
        "step": [1, 2],
        "time": [1.0, 3.0],
        "loss": [3.0, None],
        "mfu": [None, 0.5],
    }
    assert run.metrics("eval")["bits_per_byte"] == [2.0]


def test_a_run_is_the_path_of_its_folder(tmp_path):
    run = Run(tmp_path / "run")
    assert Path(run) == run.folder
    assert str(run) == str(run.folder)
    assert Run(Path(run)) == run
