"""Extractive question answering: fine-tunes a published encoder.

Start:    llmjax import sample:minilm runs/minilm     (or any other encoder)
Data:     data/train.json in SQuAD format, version 1 or 2, or JSONL with the columns question,
          context, answers. A tenth of the contexts is the validation set, unless --tasks.0.dev
          dev.json names one.
Command:  llmjax train answer
          llmjax evaluate runs/answer       (exact match and F1, as in SQuAD)
Hardware: two CPU cores for a few thousand questions; an accelerator for all of SQuAD
Results:  see docs/tasks.md
"""

from llmjax import (
    AdamWConfig,
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ExtractiveQATask,
    FileTable,
    ScheduleConfig,
)


def config() -> Config:
    """Windows of 384 tokens of the context, overlapping by 128."""
    return Config(
        run_dir="runs/answer",
        init_from="runs/minilm",
        epochs=3,
        compute=ComputeConfig(dropout=0.1),
        tasks=(
            ExtractiveQATask(train=(FileTable(("data/train.json",)),), stride=128, group="context"),
        ),
        data=DataConfig(batch_size=8, length=384),
        optimizer=AdamWConfig(
            learning_rate=1e-4,
            beta2=0.999,
            weight_decay=0.01,
            schedule=ScheduleConfig(shape="linear", warmup_steps=50, final_fraction=0.0),
        ),
        checkpoint=CheckpointConfig(every=500),
        evaluation=EvaluationConfig(every=500, batch_size=16, metric="f1"),
    )
