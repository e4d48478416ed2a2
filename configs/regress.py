"""Regression on sentence pairs, such as semantic similarity: fine-tunes a published encoder.

Start:    llmjax import sample:minilm runs/minilm     (22.7M parameters; or any other encoder)
Data:     data/train.tsv with the columns sentence_A, sentence_B and relatedness_score (those of
          SICK). A tenth is the validation set, unless --tasks.0.dev dev.tsv names one. For single
          texts: --tasks.0.pair none
Command:  llmjax train regress
          llmjax evaluate runs/regress      (Pearson, Spearman, errors, with intervals)
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
    RegressionTask,
    ScheduleConfig,
)


def config() -> Config:
    """About 30 pairs per step, packed into rows of 128 tokens; keeps the best checkpoint."""
    return Config(
        run_dir="runs/regress",
        init_from="runs/minilm",
        epochs=5,
        compute=ComputeConfig(dropout=0.1),
        tasks=(
            RegressionTask(
                train=(FileTable(("data/train.tsv",)),),
                text="sentence_A",
                pair="sentence_B",
                target="relatedness_score",
            ),
        ),
        data=DataConfig(batch_size=8, length=128),
        optimizer=AdamWConfig(
            learning_rate=1e-4,
            beta2=0.999,
            weight_decay=0.01,
            schedule=ScheduleConfig(shape="linear", warmup_steps=50, final_fraction=0.0),
        ),
        checkpoint=CheckpointConfig(every=200),
        evaluation=EvaluationConfig(every=200, batch_size=32, metric="pearson"),
    )
