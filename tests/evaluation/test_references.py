"""References of new pairs come from the initial model of the run."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.evaluation.evaluate import evaluate
from llmjax.evaluation.predict import predict
from llmjax.inference.language_model import load
from llmjax.model.checks import resolve
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.tasks.metadata import metadata_json
from llmjax.tasks.predict import compute_outputs
from llmjax.tasks.preference import PreferenceTask
from task_runs import DECODER, begun, table, tasked
from untrained import drawn

TASK = PreferenceTask(beta=0.5)
PAIRS = [{"prompt": f"{k}? ", "chosen": "yes" * (k + 1), "rejected": "no"} for k in range(3)]
OTHERS = [{"prompt": "Sky? ", "chosen": "blue", "rejected": "green"}, *PAIRS[:1]]
ADAPTED = replace(DECODER, lora=LoraConfig(rank=2, targets=("query", "down")))


def run_of(folder, model=DECODER, **changes):
    """A run that started from another, with references for its training pairs."""
    base = begun(folder / "base", DECODER)
    run = tasked(folder, TASK, PAIRS, model, init_from=str(base.folder), **changes)
    lm = load(run.folder)
    (task,) = tasks_of(lm)
    first = load(base.folder)
    facts = task.reference(
        first.model, first.params, task.examples(rows_of(PAIRS)), batch_size=4, mesh=None
    )
    run.tasks.write_text(metadata_json({"preference": facts}))
    return run, base


def tasks_of(lm):
    from llmjax.evaluation.task_evaluation import choose_tasks

    return choose_tasks(lm, None, single=True)


def rows_of(values):
    from task_models import rows_of

    return rows_of(*values)


def likelihoods(task, lm, params=None, model=None):
    """[rows, (better, worse)] of OTHERS."""
    examples = task.examples(rows_of(OTHERS))
    result = compute_outputs(task, model or lm.model, params or lm.params, examples, 4, None)
    return np.array([item["log_likelihoods"] for item in result])


def expected(now, then):
    gains = now - then
    return TASK.beta * (gains[:, 0] - gains[:, 1])


def margins(run, folder, **how):
    predictions = list(predict(run.folder, [table(folder / "others.jsonl", OTHERS)], **how))
    assert all(prediction["against_reference"] for prediction in predictions)
    return [prediction["margin"] for prediction in predictions]


@pytest.mark.once
def test_the_reference_is_the_run_that_this_one_began_with(tmp_path):
    run, base = run_of(tmp_path)
    lm = load(run.folder)
    (task,) = tasks_of(lm)
    reference = expected(likelihoods(task, lm), likelihoods(task, load(base.folder)))
    assert margins(run, tmp_path) == pytest.approx(reference, rel=1e-4)
    result = evaluate(lm, data=[tmp_path / "others.jsonl"]).tasks[0].result.metrics
    assert result["margin"].value == pytest.approx(reference.mean(), rel=1e-4)


def test_the_initial_loss_is_the_logarithm_of_2_on_any_pairs(tmp_path):
    run, base = run_of(tmp_path)
    shutil.rmtree(run.checkpoints)
    shutil.copytree(base.checkpoints, run.checkpoints)
    (run.checkpoints / "0").rename(run.checkpoints / "5")
    result = evaluate(run.folder, data=[table(tmp_path / "others.jsonl", OTHERS)])
    figures = result.tasks[0].result.metrics
    assert figures["loss"].value == pytest.approx(math.log(2), abs=1e-5)
    assert figures["margin"].value == pytest.approx(0, abs=1e-4)


def test_adapters_are_laid_aside_even_where_the_base_is_gone(tmp_path):
    run, base = run_of(tmp_path, ADAPTED)
    shutil.rmtree(base.folder)
    lm = load(run.folder)
    (task,) = tasks_of(lm)
    bare = Model(replace(lm.model.config, lora=None))
    then = likelihoods(task, lm, model=bare, params=stripped(lm.params))
    now = likelihoods(task, lm)
    assert np.abs(now - then).max() > 0.1, "the adapters do something"
    new, _ = margins(run, tmp_path)  # the reference of the other is that of the base
    assert new == pytest.approx(expected(now, then)[0], rel=1e-3)


def stripped(tree):
    if isinstance(tree, dict):
        return {k: stripped(v) for k, v in tree.items() if not k.startswith("lora_")}
    return tuple(map(stripped, tree)) if isinstance(tree, tuple) else tree


def test_without_the_model_as_it_began_there_are_no_figures(tmp_path, command):
    run, base = run_of(tmp_path)
    shutil.rmtree(base.folder)
    file = table(tmp_path / "others.jsonl", OTHERS).paths[0]
    for verb in ("evaluate", "predict"):
        code, out, err = command(verb, str(run.folder), "--data", file)
        assert (code, out) == (2, "")
        assert "task preference: has no references for new pairs" in err[-1]
        assert f"{base.folder}: no such run folder" in err[-1]
    assert command("evaluate", str(run.folder))[0] == 0, "its own pairs have theirs"


def test_a_changed_initial_run_is_refused(tmp_path):
    run, base = run_of(tmp_path)
    tokens = load(base.folder).tokenizer.vocab_size
    shutil.rmtree(base.checkpoints)
    save_params(base.checkpoints, drawn(Model(resolve(DECODER, tokens)), 9, spread=0.3))
    with pytest.raises(UserError, match="base: has changed since this run started from it"):
        margins(run, tmp_path)
    (tmp_path / "rows.jsonl").unlink()
    assert len(margins(run, tmp_path)) == 2, "nothing to tell by: it is said"


def test_a_run_from_scratch_needs_its_checkpoint_of_step_0(tmp_path):
    run = tasked(tmp_path, TASK, PAIRS, DECODER)
    (run.checkpoints / "0").rename(run.checkpoints / "5")
    with pytest.raises(UserError, match="no longer has the checkpoint of step 0"):
        evaluate(run.folder, data=[table(tmp_path / "others.jsonl", OTHERS)])


def test_an_import_that_was_trained_in_its_folder_began_with_its_first_checkpoint(tmp_path):
    run = tasked(tmp_path, TASK, PAIRS, DECODER)
    result = evaluate(run.folder, data=[table(tmp_path / "others.jsonl", OTHERS)])
    assert result.tasks[0].result.metrics["loss"].value == pytest.approx(math.log(2), abs=1e-5)
    assert json.loads(run.tasks.read_text())["preference"]["references"] == []
