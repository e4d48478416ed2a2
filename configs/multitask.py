"""Multi-task fine-tuning of one encoder: classification of texts and regression on pairs.

Start:    llmjax import sample:minilm runs/minilm     (22.7M parameters; or any other encoder)
Data:     data/labels.tsv with the columns text, label; data/pairs.tsv with the columns sentence_A,
          sentence_B, relatedness_score (those of SICK). A tenth of each is the validation set.
          Weights set the share of steps per task: --tasks.1.weight 3
Command:  llmjax train multitask
          llmjax evaluate runs/multitask    (the metrics of each task)
          llmjax predict runs/multitask --task label --data my.tsv
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
    RegressionTask,
    ScheduleConfig,
)


def config() -> Config:
    """Each step trains one task, sampled by weight. To select the best checkpoint by one task, set
    evaluation.metric to NAME.accuracy."""
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
