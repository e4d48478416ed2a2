"""Runs of small models that nobody trained, for tasks to begin with, and how they are spoken of."""

import json
from dataclasses import replace
from pathlib import Path

from llmjax.data.config import DataConfig
from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.families import bert_base, llama
from llmjax.model.model import Model
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.tasks.config import name_of
from llmjax.tasks.metadata import metadata_json
from llmjax.tasks.task import TaskContext, network_of
from untrained import drawn

LENGTH = 64
ENCODER = replace(
    bert_base(0),
    d_model=16,
    d_ff=32,
    num_heads=2,
    num_encoder_layers=6,
    max_length=LENGTH,
    lm_head_transform=False,
    lm_head_bias=False,
    pooler=True,
)
DECODER = replace(
    llama("1B", 0),
    d_model=16,
    d_ff=32,
    num_heads=2,
    num_kv_heads=1,
    num_decoder_layers=2,
    max_length=LENGTH,
)
ENCODER_DECODER = ModelConfig(
    d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, max_length=LENGTH
)


def begun(folder: Path | str, model: ModelConfig = ENCODER, seed: int = 0) -> Run:
    """A run folder like that of an imported model, of bytes; parameters are drawn by the seed."""
    run = Run(Path(folder))
    config = Config(
        run_dir=str(folder), model=model, tokenizer=BytesConfig(), data=DataConfig(length=LENGTH)
    )
    Run.create(config)
    tokenizer = BytesTokenizer()
    tokenizer.save(run.tokenizer)
    params = drawn(Model(resolve(model, tokenizer.vocab_size)), seed, spread=0.1)
    save_params(run.checkpoints, params)
    return run


def table(path: Path, rows: list) -> FileTable:
    """A JSONL file of these rows."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return FileTable((str(path),))


def tasked(folder: Path, task, rows: list, model: ModelConfig = ENCODER, **changes) -> Run:
    """A run of a task as training would begin it, measured on the very rows that it learns from;
    changes replace fields of its config."""
    run = Run(folder / "run")
    tables = (table(folder / "rows.jsonl", rows),)
    task = replace(task, train=tables, dev=tables)
    base = Config(model=model, tokenizer=BytesConfig(), data=DataConfig(length=LENGTH))
    config = replace(base, run_dir=str(run.folder), tasks=(task,), **changes)
    Run.create(config)
    tokenizer = BytesTokenizer()
    tokenizer.save(run.tokenizer)
    shape = resolve(config.model, tokenizer.vocab_size)
    facts = task.find_metadata([Row(f"row {number}", row) for number, row in enumerate(rows)])
    run.tasks.write_text(metadata_json({name_of(task): facts}))
    network = network_of(Model(shape), [task.open(TaskContext(tokenizer, shape, LENGTH), facts)])
    save_params(run.checkpoints, drawn(network, 1, spread=0.1))
    return run
