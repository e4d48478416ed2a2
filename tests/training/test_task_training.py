"""Runs that learn tasks, from their beginning to the checkpoint that is read."""

import csv
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import llmjax
import runs
from llmjax.data.config import DataConfig
from llmjax.data.tables.files import FileTable
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.metrics.metric import Metric, Metrics
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.lora import LoraConfig, merged
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig, SgdConfig
from llmjax.optimizers.trainable import TrainAll, TrainByPattern, TrainHeads
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.reading import stored_leaves
from llmjax.run.config.files import load_config_file
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.parameters import read_parameters, resolve_step, run_network
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.sequence import SequenceTask
from llmjax.training.train import train
from runs import metrics
from task_runs import DECODER, ENCODER, ENCODER_DECODER, begun
from tiny import equal

WORDS = [f"{a}{b}{c}" for a in "abcd" for b in "wxyz" for c in "mn"]
SMALL = replace(ENCODER, num_encoder_layers=2)
CONSTANT = ScheduleConfig(shape="constant", warmup_steps=0)
ADAM = AdamWConfig(learning_rate=1e-2, schedule=CONSTANT)
PLAIN = SgdConfig(
    learning_rate=0.1, momentum=0.0, weight_decay=0.0, clip_norm=None, schedule=CONSTANT
)


@pytest.fixture
def devices(monkeypatch):
    """Call it with a number to train on that many devices; else it is one."""

    use = partial(runs.train_on, monkeypatch)
    use(1)
    return use


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run to begin with, of an encoder with two layers."""
    return begun(tmp_path_factory.mktemp("base") / "run", SMALL, seed=5)


def table(folder, name, **columns):
    """A CSV file of WORDS with these columns (name -> value of a word) besides."""
    path = folder / f"{name}.csv"
    rows = [{"text": word, **{n: f(word) for n, f in columns.items()}} for word in WORDS]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return (FileTable((str(path),)),)


def labels(folder, **fields):
    train = table(folder, "labels", label=lambda word: word[0])
    return ClassificationTask(train=train, **{"dev_fraction": 0.0} | fields)


def numbers(folder, **fields):
    train = table(folder, "numbers", score=lambda word: ord(word[1]) - ord("w"))
    return RegressionTask(train=train, **{"dev_fraction": 0.0} | fields)


def validated(task):
    """The task, evaluated on its training set."""
    return replace(task, dev=task.train)


def config(folder, *tasks, run="run", model=SMALL, **changes):
    """A run of 2 steps in `folder`/`run`; changes replace fields."""
    standard = Config(
        run_dir=str(folder / run),
        steps=2,
        model=model,
        tokenizer=BytesConfig(),
        tasks=tasks,
        data=DataConfig(batch_size=8, length=16, cache_dir=str(folder / "cache"), workers=1),
        optimizer=ADAM,
        checkpoint=CheckpointConfig(every=0, keep_last=100),
        evaluation=EvaluationConfig(every=0, batch_size=8),
        log=LogConfig(every=1, display="none"),
    )
    return replace(standard, **changes)


def losses(run):
    return [line["loss"] for line in metrics(run)]


def all_params(run, step=None):
    """All parameters of a run, heads included, layers stacked."""
    run = Run.open(run)
    there, tokenizer = run.config(), BytesTokenizer()
    network = run_network(run, there, tokenizer, resolve(there.model, tokenizer.vocab_size))
    return read_parameters(run, resolve_step(run, there, step), network.abstract_params())


def with_state(run, step):
    """Names of what the optimizer keeps in a checkpoint."""
    path = Run.open(run).checkpoints.absolute() / str(step)
    handler = ocp.CompositeCheckpointHandler(training=ocp.StandardCheckpointHandler())
    with ocp.Checkpointer(handler) as checkpointer:
        return list(checkpointer.metadata(path).item_metadata["training"])


@pytest.mark.once
def test_half_and_half_is_the_whole_bit_for_bit(tmp_path, devices):
    devices(2)
    compute = ComputeConfig(dropout=0.1)
    tasks = labels(tmp_path, weight=2.0), numbers(tmp_path)
    unbroken = train(config(tmp_path, *tasks, compute=compute, steps=6))
    parted = config(tmp_path, *tasks, compute=compute, run="parted", steps=3)
    train(parted)
    train(replace(parted, steps=6))
    assert equal(all_params(unbroken), all_params(tmp_path / "parted"))
    assert losses(unbroken) == losses(tmp_path / "parted")
    assert len(losses(unbroken)) == 6


def reversed_words(folder):
    rows = table(folder, "reversed", back=lambda word: word[::-1])
    return SequenceTask(train=rows, source="text", target="back", dev_fraction=0.0)


@pytest.mark.parametrize(
    ("model", "task"), [(SMALL, labels), (ENCODER_DECODER, reversed_words)], ids=["encoder", "both"]
)
def test_sharded_equals_single(tmp_path, devices, model, task):
    single = config(tmp_path, task(tmp_path), model=model, optimizer=PLAIN, run="one")
    train(single)
    devices(8)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    train(replace(single, run_dir=str(tmp_path / "many"), mesh=mesh))
    pairs = zip(
        *(jax.tree.leaves(all_params(tmp_path / run)) for run in ("one", "many")), strict=True
    )
    for single, sharded in pairs:
        np.testing.assert_allclose(sharded, single, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "one"), rtol=1e-5)


def test_a_run_begins_with_the_other_ones_parameters_and_heads_alone_learn(tmp_path, devices, base):
    finetuning = config(
        tmp_path, labels(tmp_path), init_from=str(base.folder), trainable=TrainHeads()
    )
    run = train(finetuning)
    params = all_params(run)
    heads = params.pop("heads")
    assert equal(params, all_params(base.folder))
    assert np.any(np.asarray(heads["classification"]["out"]["bias"]))
    assert {name.split(".")[0] for name in stored_leaves(Run.open(run).checkpoints, 2)} == {"heads"}
    state = [name for name in with_state(run, 2) if "mu" in name]
    assert state
    assert all("['heads']" in name for name in state)


@pytest.mark.once
def test_adapters_leave_their_bases_and_begin_as_nothing(tmp_path, devices, base):
    model, compute = replace(SMALL, lora=LoraConfig(rank=2)), ComputeConfig(dtype="bfloat16")
    finetuning = config(
        tmp_path, labels(tmp_path), model=model, compute=compute, init_from=str(base.folder)
    )
    run = train(finetuning)
    params, initial = all_params(run), all_params(base.folder)
    query = params["encoder"]["layers"]["attention"]["query"]
    assert np.any(np.asarray(query["lora_b"]))
    rounded = jnp.asarray(
        initial["encoder"]["layers"]["attention"]["query"]["kernel"], jnp.bfloat16
    )
    assert equal(jnp.asarray(query["kernel"], jnp.bfloat16), rounded)
    assert equal(params["encoder"]["embed_norm"], initial["encoder"]["embed_norm"])
    assert all("lora_" in name or "heads" in name for name in with_state(run, 2) if "mu" in name)

    plain = replace(model, lora=None)
    train(replace(finetuning, run_dir=str(tmp_path / "plain"), model=plain, steps=1))
    # B is 0, so that the first step sees the model without adapters.
    assert losses(run)[0] == pytest.approx(losses(tmp_path / "plain")[0], rel=1e-3)


@pytest.mark.once
def test_preferences_begin_at_the_logarithm_of_2_as_the_recipe_has_them(tmp_path, devices):
    first = begun(tmp_path / "first", DECODER, seed=3)
    rows = table(
        tmp_path, "pairs", prompt=str.upper, chosen=lambda w: w[::-1], rejected=lambda w: w * 2
    )
    recipe = load_config_file("prefer")
    (task,) = recipe.tasks
    plain = config(tmp_path, replace(task, train=rows, dev=rows), init_from=str(first.folder))
    preferring = replace(
        recipe,
        run_dir=plain.run_dir,
        init_from=plain.init_from,
        epochs=None,
        steps=3,
        tasks=plain.tasks,
        data=replace(plain.data, length=32),
        optimizer=replace(recipe.optimizer, learning_rate=1e-2, schedule=CONSTANT),
        log=plain.log,
    )
    assert preferring.model.lora is not None
    assert preferring.compute.dtype == "bfloat16"
    values = losses(train(preferring))
    assert values[0] == pytest.approx(math.log(2), abs=1e-5)
    assert values[-1] < values[0] - 0.01


@pytest.mark.once
def test_a_run_that_begins_with_adapters_begins_with_them_merged(tmp_path, devices, base):
    lora = LoraConfig(rank=2, targets=("query", "down"))
    task, model = labels(tmp_path), replace(SMALL, lora=lora)
    first = train(config(tmp_path, task, model=model, init_from=str(base.folder)))
    again = config(tmp_path, task, run="again", init_from=str(first), trainable=TrainHeads())
    params, initial = all_params(train(again)), all_params(first)
    params.pop("heads"), initial.pop("heads")
    assert equal(params, jax.jit(merged, static_argnums=1)(initial, lora))


@pytest.mark.once
def test_chosen_patterns_free_single_layers(tmp_path, devices, base):
    tune = TrainByPattern(("encoder.layers.1.*", "pooler.kernel"))
    run = train(config(tmp_path, labels(tmp_path), init_from=str(base.folder), trainable=tune))
    params, initial = all_params(run), all_params(base.folder)
    for path, leaf in jax.tree.leaves_with_path(params["encoder"]["layers"]):
        before = initial["encoder"]["layers"]
        for key in path:
            before = before[key.key]
        assert equal(leaf[0], before[0])
        if path[-1].key == "kernel":
            assert not equal(leaf[1], before[1])
    assert not equal(params["pooler"]["kernel"], initial["pooler"]["kernel"])
    assert equal(params["pooler"]["bias"], initial["pooler"]["bias"])
    assert equal(params["embedding"], initial["embedding"])


@pytest.mark.once
def test_lower_layers_learn_slower(tmp_path, devices, base):
    fast = replace(PLAIN, learning_rate=0.5)
    fast_run = config(
        tmp_path, labels(tmp_path), init_from=str(base.folder), optimizer=fast, steps=1
    )
    full = all_params(train(fast_run))
    slow = replace(fast_run, run_dir=str(tmp_path / "slow"), trainable=TrainAll(layer_decay=0.5))
    decayed, initial = all_params(train(slow)), all_params(base.folder)
    assert equal(decayed["heads"], full["heads"])
    multipliers = {
        ("embedding", "rows"): 0.125,
        ("encoder", "layers", "mlp", "up", "kernel"): np.array([0.25, 0.5])[:, None, None],
        ("pooler", "kernel"): 1.0,
    }
    for path, multiplier in multipliers.items():
        before, after, slower = initial, full, decayed
        for name in path:
            before, after, slower = before[name], after[name], slower[name]
        change = np.asarray(after) - np.asarray(before)
        assert np.abs(change).max() > 1e-5
        expected = np.asarray(before) + multiplier * change
        np.testing.assert_allclose(slower, expected, rtol=1e-5, atol=1e-7)


def accuracies(monkeypatch, *values):
    """The accuracies of evaluations, one after the other."""
    each = iter(values)

    def classification(labels, targets, probabilities):
        return Metrics((Metric("accuracy", next(each), 0.0, 1.0),), len(targets))

    monkeypatch.setattr("llmjax.metrics.labels.classification", classification)


@pytest.mark.once
def test_a_run_stops_early_and_its_best_checkpoint_is_read(tmp_path, devices, monkeypatch, caplog):
    accuracies(monkeypatch, 0.5, 0.9, 0.8, 0.7, 1.0)
    stops = config(
        tmp_path,
        validated(labels(tmp_path)),
        steps=9,
        checkpoint=CheckpointConfig(every=1, keep_last=1, keep_best=1),
        evaluation=EvaluationConfig(every=1, batch_size=8, metric="accuracy", patience=2),
    )
    run = train(stops)
    assert Run.open(run).steps() == [2, 4]
    assert llmjax.load(run).step == 2
    assert llmjax.load(run, step=4).step == 4
    train(stops)
    assert "no longer improves; nothing to do" in caplog.text
    assert Run.open(run).steps() == [2, 4]


@pytest.mark.once
def test_a_refused_run_keeps_what_its_predictions_are_named_by(tmp_path, devices):
    task = labels(tmp_path)
    train(config(tmp_path, task))
    facts = Run(tmp_path / "run").tasks.read_bytes()
    table(tmp_path, "labels", label=lambda word: {"a": "d", "d": "a"}.get(word[0], word[0]) * 2)
    with pytest.raises(UserError, match="was trained on another corpus"):
        train(config(tmp_path, task, steps=4))
    assert Run(tmp_path / "run").tasks.read_bytes() == facts
    labels(tmp_path)
    train(config(tmp_path, task, steps=4))
    assert Run(tmp_path / "run").tasks.read_bytes() == facts


@pytest.mark.once
@pytest.mark.parametrize(("keep_best", "kept"), [(1, [3, 5]), (0, [5])])
def test_the_best_is_kept_where_no_checkpoint_was_due(
    tmp_path, devices, monkeypatch, keep_best, kept
):
    accuracies(monkeypatch, math.nan, 0.5, 0.9, 0.8, 0.7)
    run = train(
        config(
            tmp_path,
            validated(labels(tmp_path)),
            steps=5,
            checkpoint=CheckpointConfig(every=0, keep_last=1, keep_best=keep_best),
            evaluation=EvaluationConfig(every=1, batch_size=8, metric="accuracy"),
        )
    )
    assert Run.open(run).steps() == kept
    assert llmjax.load(run).step == kept[0]


@pytest.mark.once
def test_what_was_learnt_is_saved_where_measuring_fails(tmp_path, devices, monkeypatch):
    def broken(*_):
        raise ValueError("no metrics today")

    every_2 = EvaluationConfig(every=2, batch_size=8)
    run = config(tmp_path, validated(labels(tmp_path)), steps=3, evaluation=every_2)
    with monkeypatch.context() as patch:
        patch.setattr("llmjax.metrics.labels.classification", broken)
        with pytest.raises(ValueError, match="no metrics today"):
            train(run)
    assert Run(tmp_path / "run").steps() == [2]
    train(run)
    assert Run(tmp_path / "run").steps() == [2, 3]


GOOD = "text,label\nab,x\ncd,y\nef,x\ngh,y\n"


@pytest.mark.parametrize(
    ("words", "files", "message"),
    [
        ("--tasks.0.text review", {}, "a.csv line 2: has no column 'review'"),
        ("--tasks.0.dev b.csv", {"b.csv": "text,label\nab,z\n"}, "b.csv line 2: label 'z'"),
        ("", {"a.csv": GOOD + ",x\n"}, "a.csv line 6, column 'text'"),
        ("", {"a.csv": "text,label\nab,x\ncd,x\n"}, "task classification: needs two labels"),
        (
            "--init-from nowhere",
            {},
            "nowhere: no such run folder to start from; llmjax import MODEL nowhere",
        ),
        ("--evaluation.metric f1", {}, "evaluation.metric f1: is not measured here; choose one"),
        (
            "--trainable chosen --trainable.patterns encoder.layer.*",
            {},
            "trainable.patterns: encoder.layer.*",
        ),
        ("--model.lora.targets gate", {}, "model: lora.targets has gate, but the model's MLP"),
        ("--model.lora.targets head", {}, "--model.lora.targets: 'head' is not a list"),
        (
            "--model.lora.rank 2 --trainable heads",
            {},
            "trainable: heads does not go with model.lora",
        ),
        ("--tasks.0.dev b.csv", {}, "b.csv: "),
        ("--optimizer.schedule.warmup-steps 9", {}, "optimizer.schedule.warmup_steps: 9 must lie"),
        ("--tasks.0.group writer", {}, "a.csv line 2: has no column 'writer' to group by"),
        ("--tasks.0.dev b.csv", {"b.csv": "text\nab\n"}, "b.csv line 2: has no column 'label'"),
        ("--tasks.0.dev b.csv", {"b.csv": "text,label\nab,\n"}, "b.csv line 2, column label: "),
        (
            "--tasks.0.dev-fraction 0",
            {},
            "evaluation.metric accuracy: no task has a validation set",
        ),
        (
            "--tasks.0.dev-fraction 0 --evaluation.metric none --evaluation.patience 2",
            {},
            "evaluation.patience 2: no task has a validation set",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, command, base, words, files, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    for name, text in ({"a.csv": GOOD} | files).items():
        (tmp_path / name).write_text(text)
    argv = f"train classify --run-dir run --init-from {base.folder} --tasks.0.train a.csv"
    argv += f" --data.length 16 --optimizer.schedule.warmup-steps 0 --log.display none {words}"
    code, out, err = command(*argv.split())
    assert (code, out) == (2, "")
    assert len(err) == 1
    assert err[0].startswith(f"llmjax: error: {message}")


def test_a_damaged_beginning_is_refused(tmp_path, devices, base):
    base_run = begun(tmp_path / "other", SMALL)
    for path in (base_run.checkpoints / "0" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match="other"):
        train(config(tmp_path, labels(tmp_path), init_from=str(base_run.folder)))
