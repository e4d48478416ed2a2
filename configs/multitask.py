"""Two tasks at once on one encoder, a head each: labels of texts, and numbers for pairs.

Begin:    llmjax import sample:minilm runs/minilm     (22.7M parameters; or any other encoder)
Data:     data/labels.tsv with the columns text, label; data/pairs.tsv with the columns sentence_A,
          sentence_B, relatedness_score (those of SICK). A tenth of each is the validation set.
          Steps go to the tasks by weight: --tasks.1.weight 3
Command:  llmjax train multitask
          llmjax evaluate runs/multitask    (the figures of each)
          llmjax predict runs/multitask --task label --data my.tsv
Hardware: two CPU cores, or any accelerator
Figure:   see docs/tasks.md
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
    RegressionTask,
    ScheduleConfig,
)


def config() -> Config:
    """Each step is of one task, drawn by weight; with NAME.accuracy as evaluation.metric, the best
    checkpoint is that of one task."""
    return Config(
        run_dir="runs/multitask",
        init_from="runs/minilm",
        epochs=3,
        compute=ComputeConfig(dropout=0.1),
        tasks=(
            ClassificationTask(name="label", train=(FileTable(("data/labels.tsv",)),)),
            RegressionTask(
                name="relatedness",
                train=(FileTable(("data/pairs.tsv",)),),
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
        evaluation=EvaluationConfig(every=200, batch_size=32),
    )
