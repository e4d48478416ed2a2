"""Token classification, such as named entities: fine-tunes a published encoder.

Start:    llmjax import sample:minilm runs/minilm     (or any other encoder)
Data:     data/train.jsonl, a line {"tokens": ["Ada", "slept"], "tags": ["B-PER", "O"]} for each
          sentence, or both as strings separated by spaces. A tenth is the validation set.
Command:  llmjax train tag
          llmjax evaluate runs/tag          (F1 of entities)
          for tags without entities, such as parts of speech: --evaluation.metric accuracy
Hardware: two CPU cores, or any accelerator
Results:  see docs/tasks.md
"""

from llmjax import (
    AdamWConfig,
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FileTable,
    ScheduleConfig,
    TokenClassificationTask,
)


def config() -> Config:
    """Whole sentences, packed into rows of 256 tokens."""
    return Config(
        run_dir="runs/tag",
        init_from="runs/minilm",
        epochs=5,
        compute=ComputeConfig(dropout=0.1),
        tasks=(TokenClassificationTask(train=(FileTable(("data/train.jsonl",)),)),),
        data=DataConfig(batch_size=8, length=256),
        optimizer=AdamWConfig(
            learning_rate=2e-4,
            beta2=0.999,
            weight_decay=0.01,
            schedule=ScheduleConfig(shape="linear", warmup_steps=50, final_fraction=0.0),
        ),
        checkpoint=CheckpointConfig(every=200),
        evaluation=EvaluationConfig(every=200, batch_size=16, metric="f1"),
    )
