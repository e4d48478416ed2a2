"""End-to-end runs of generation, preference and similarity tasks: they learn, and resume."""

import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

import llmjax
from llmjax.data.config import DataConfig
from llmjax.data.tables.files import FileTable
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.model.config import ModelConfig
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.chat import ChatTask
from llmjax.tasks.conversations import PLAIN
from llmjax.tasks.preference import PreferenceTask
from llmjax.tasks.sequence import SequenceTask
from llmjax.tasks.similarity import SimilarityTask

SIZES = {"d_model": 32, "num_heads": 2, "d_ff": 64, "max_length": 64}
WORDS = [f"{a}{b}" for a in "abcd" for b in "wxyz"]


def talk(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


ROWS = {
    "sequence": [{"source": word, "target": word[::-1]} for word in WORDS],
    "chat": [{"messages": talk(word, word[::-1])} for word in WORDS],
    "preference": [
        {"prompt": f"{word}?", "chosen": word[::-1], "rejected": word * 2} for word in WORDS
    ],
    "similarity": [{"text": word, "pair": f"{word} {word}"} for word in WORDS],
}
TASKS = {
    "sequence": SequenceTask(max_new_tokens=4, measure=4),
    "chat": ChatTask(),
    "preference": PreferenceTask(),
    "similarity": SimilarityTask(),
}


def config(folder, kind, steps, **model):
    table = folder / f"{kind}.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]))
    tables = (FileTable((str(table),)),)
    return Config(
        run_dir=str(folder / "run"),
        steps=steps,
        model=ModelConfig(**SIZES | {"num_decoder_layers": 1} | model),
        tokenizer=BytesConfig(),
        tasks=(replace(TASKS[kind], train=tables, dev=tables),),
        data=DataConfig(batch_size=8, length=64, cache_dir=str(folder / "cache")),
        optimizer=AdamWConfig(
            learning_rate=3e-3, schedule=ScheduleConfig(shape="constant", warmup_steps=0)
        ),
        log=LogConfig(every=1),
        evaluation=EvaluationConfig(every=4, batch_size=8),
    )


def lines(folder, kind):
    text = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, text) if line["kind"] == kind]


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_learns(tmp_path, kind):
    more = {"num_encoder_layers": 1} if kind == "sequence" else {}
    llmjax.train(config(tmp_path, kind, 8, **more))
    first, last = lines(tmp_path, "eval")[0], lines(tmp_path, "eval")[-1]
    assert last["loss"] < first["loss"]
    named = {"sequence": "bleu", "chat": "perplexity"}.get(kind, "accuracy")
    assert named in last
    template = llmjax.load(tmp_path / "run").tokenizer.chat_template
    assert template == (PLAIN if kind == "chat" else None)


def test_preferences_begin_at_the_logarithm_of_2_and_go_on(tmp_path):
    full, parted = tmp_path / "whole", tmp_path / "parted"
    for folder in (full, parted):
        folder.mkdir()
    llmjax.train(config(full, "preference", 6))
    began = lines(full, "train")[0]
    assert began["step"] == 1
    assert began["loss"] == pytest.approx(math.log(2), abs=1e-6)
    facts = json.loads(Run.open(full / "run").tasks.read_text())["preference"]
    assert len(facts["references"]) == len(WORDS)

    llmjax.train(config(parted, "preference", 3))
    llmjax.train(config(parted, "preference", 6))
    again = json.loads(Run.open(parted / "run").tasks.read_text())["preference"]
    assert again == facts
    states = [llmjax.load(folder / "run").params for folder in (full, parted)]
    for actual, expected in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-2, atol=1e-3)
