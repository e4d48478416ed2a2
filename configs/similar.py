"""Text embeddings for search: contrastive fine-tuning on pairs, with in-batch negatives.

Start:    llmjax import sample:minilm runs/minilm     (or any other encoder)
Data:     data/pairs.tsv with the columns text and pair, such as questions and answers; the other
          pairs of the batch are the negatives. A tenth is the validation set.
Command:  llmjax train similar
          llmjax evaluate runs/similar      (how often a text retrieves its partner)
          llmjax embed runs/similar --text "How do I get my money back?"
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
    SimilarityTask,
)


def config() -> Config:
    """Texts of up to 128 tokens; a larger batch has more negatives, which improves the vectors."""
    return Config(
        run_dir="runs/similar",
        init_from="runs/minilm",
        epochs=1,
        compute=ComputeConfig(dropout=0.1),
        tasks=(SimilarityTask(train=(FileTable(("data/pairs.tsv",)),), both=True),),
        data=DataConfig(batch_size=16, length=256),
        optimizer=AdamWConfig(
            learning_rate=5e-5,
            beta2=0.999,
            weight_decay=0.01,
            schedule=ScheduleConfig(shape="linear", warmup_steps=20, final_fraction=0.0),
        ),
        checkpoint=CheckpointConfig(every=200),
        evaluation=EvaluationConfig(every=200, batch_size=16, metric="accuracy"),
    )
