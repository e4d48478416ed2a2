"""Text classification: fine-tunes a published encoder.

Start:    llmjax import sample:minilm runs/minilm     (22.7M parameters; or any other encoder)
Data:     data/train.tsv with a header line: text, label. A tenth is the validation set, unless
          --tasks.0.dev dev.tsv names one. Without a header: --tasks.0.train
          table:my.tsv,columns=text,label. Other columns: --tasks.0.text review --tasks.0.label
          stars
Command:  llmjax train classify
          llmjax evaluate runs/classify     (accuracy, F1, Matthews, with intervals)
Hardware: two CPU cores, or any accelerator
Results:  see docs/tasks.md
"""

from llmjax import (
    AdamWConfig,
    CheckpointConfig,
    ClassificationTask,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FileTable,
    ScheduleConfig,
)


def config() -> Config:
    """About 30 sentences per step, packed into rows of 128 tokens; keeps the best checkpoint."""
    return Config(
        run_dir="runs/classify",
        init_from="runs/minilm",
        epochs=4,
        compute=ComputeConfig(dropout=0.1),
        tasks=(ClassificationTask(train=(FileTable(("data/train.tsv",)),)),),
        data=DataConfig(batch_size=8, length=128),
        optimizer=AdamWConfig(
            learning_rate=5e-5,
            beta2=0.999,
            weight_decay=0.01,
            schedule=ScheduleConfig(shape="linear", warmup_steps=50, final_fraction=0.0),
        ),
        checkpoint=CheckpointConfig(every=200),
        evaluation=EvaluationConfig(every=200, batch_size=32, metric="accuracy"),
    )
