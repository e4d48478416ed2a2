"""Preference tuning of a decoder (DPO), with LoRA adapters.

Start:    a chat model, for example from `llmjax train chat`; its adapters are merged
Data:     data/pairs.jsonl, a line {"prompt": ..., "chosen": ..., "rejected": ...} for each pair,
          as text or as lists of messages. A tenth is the validation set.
Command:  llmjax train prefer
          llmjax evaluate runs/prefer       (how often the chosen answer is the likelier one)
Hardware: two CPU cores for a few hundred pairs; any accelerator
Results:  see docs/tasks.md; the loss starts at ln 2
"""

from llmjax import (
    AdamWConfig,
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FileTable,
    LoraConfig,
    ModelConfig,
    PreferenceTask,
    ScheduleConfig,
)


def config() -> Config:
    """Pairs of up to 512 tokens, both answers together; adapters of rank 16."""
    return Config(
        run_dir="runs/prefer",
        init_from="runs/chat",
        epochs=1,
        model=ModelConfig(
            lora=LoraConfig(rank=16, alpha=32.0, targets=("query", "key", "value", "out")),
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        tasks=(PreferenceTask(train=(FileTable(("data/pairs.jsonl",)),), beta=0.1),),
        data=DataConfig(batch_size=8, length=512),
        optimizer=AdamWConfig(
            learning_rate=5e-5,
            beta2=0.999,
            weight_decay=0.0,
            schedule=ScheduleConfig(warmup_steps=10),
        ),
        checkpoint=CheckpointConfig(every=100),
        evaluation=EvaluationConfig(every=100, batch_size=8, metric="accuracy"),
    )
