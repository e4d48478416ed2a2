"""Results of tasks after training and evaluation: measures.json and printed text."""

import json

import numpy as np
import pytest

import llmjax
from llmjax.cli.train import in_words, summary
from llmjax.data.config import DataConfig
from llmjax.data.tables.files import FileTable
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.evaluation.task_evaluation import evaluate_tasks
from llmjax.model.config import ModelConfig
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.reporting.report import report
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.telemetry.config import LogConfig
from llmjax.run.telemetry.display import describe
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.examples import Example, Segment
from llmjax.tasks.feed import Source, TaskFeed
from llmjax.tasks.packing import shape_of
from llmjax.tasks.regression import RegressionTask


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two tasks, four steps long."""
    folder = tmp_path_factory.mktemp("findings")
    rows = [{"text": f"{'good' if k % 2 else 'bad'} {k}", "y": k % 2, "n": k} for k in range(16)]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = {"train": (FileTable((str(folder / "t.jsonl"),)),)}
    tables["dev"] = tables["train"]
    config = Config(
        run_dir=str(folder / "run"),
        steps=4,
        model=ModelConfig(d_model=32, num_encoder_layers=1, num_decoder_layers=0, num_heads=2),
        tokenizer=BytesConfig(),
        tasks=(
            ClassificationTask(name="tone", label="y", **tables),
            RegressionTask(name="size", target="n", **tables),
        ),
        data=DataConfig(batch_size=8, length=32, cache_dir=str(folder / "cache")),
        optimizer=AdamWConfig(schedule=ScheduleConfig(warmup_steps=0)),
        log=LogConfig(every=1, display="none"),
        evaluation=EvaluationConfig(every=2, batch_size=8),
    )
    llmjax.train(config)
    return Run.open(config.run_dir)


@pytest.mark.once
def test_training_and_evaluate_store_the_same_results(run):
    kept = json.loads(run.measures.read_bytes())
    assert list(kept) == ["tone", "size"]
    tone = kept["tone"]
    assert (tone["step"], tone["examples"], tone["kind"]) == (4, 16, "classification")
    assert sum(map(sum, tone["tables"]["confusion"]["counts"])) == 16
    assert kept["size"]["mistakes"][0]["cost"] > 0
    evaluate_tasks(llmjax.load(run.folder), task="tone")
    again = json.loads(run.measures.read_bytes())
    assert again["size"] == kept["size"]
    assert again["tone"].keys() == tone.keys() | {"task", "seconds"}
    assert again["tone"]["tables"]["labels"][0].keys() == tone["tables"]["labels"][0].keys()


def test_records_know_no_accuracy_where_nothing_is_right_or_wrong(run):
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert all(line["bits_per_byte"] is None for line in train)
    example = Example((Segment([1]),), np.zeros(1, np.float32), 1.0, 0)
    source = Source([example], shape_of([example], 32, encodes=False))
    feed = TaskFeed([source, source], 8, run.config().seed)
    sizes = [feed.task(line["step"] - 1) == 1 for line in train]
    assert [line["accuracy"] is None for line in train] == sizes
    assert "n/a bits/byte" not in describe(train[0])
    assert "accuracy" not in describe(train[0])


def test_a_person_reads_figures_by_name(run):
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    display = describe(next(line for line in lines if line["kind"] == "eval"))
    printed = in_words(summary(run))
    for text in ("tone accuracy", "size Pearson correlation"):
        assert text in display
    for text in ("  tone: accuracy", "  size: Pearson correlation", "mean squared error"):
        assert text in printed
    assert "byte" not in display + printed
    assert "token" not in display + printed
    assert "Task: tone" in report(run.folder).read_text()


def test_a_single_task_needs_no_name():
    line = {"step": 3, "kind": "eval", "loss": 0.25, "bits_per_byte": None}
    line |= {"accuracy": 0.9123, "bleu": 31.25, "examples": 8, "epoch": 1.0, "tokens": 9}
    assert describe(line) == "validation: accuracy 91.23 %  BLEU 31.2  loss 0.2500"
    heldout = {"step": 3, "accuracy": 0.9123, "loss": 0.25}
    words = in_words({"run": "R", "step": 3, "heldout": heldout})
    assert words == "R at step 3, on validation examples: accuracy 91.23 %, loss 0.2500"
