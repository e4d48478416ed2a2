"""Chat: fine-tunes a pretrained decoder on the assistant's replies, with LoRA adapters.

Start:    llmjax import sample:smollm2-135m runs/smollm2     (or any other decoder)
Data:     data/train.jsonl, a line {"messages": [{"role": "user", "content": ...}, {"role":
          "assistant", "content": ...}, ...]} per conversation; rows of ShareGPT, Alpaca, and prompt
          and completion are read as well. A twentieth is the validation set.
Command:  llmjax train chat     (all weights: --model.lora none and a tenth of the learning rate)
          llmjax evaluate runs/chat         (nats and perplexity of the assistant's replies)
          llmjax chat runs/chat
Hardware: two CPU cores for a few hundred conversations; any accelerator
Results:  see docs/tasks.md
"""

from llmjax import (
    AdamWConfig,
    ChatTask,
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FileTable,
    LoraConfig,
    ModelConfig,
    ScheduleConfig,
)


def config() -> Config:
    """Conversations of up to 512 tokens; adapters of rank 16 on every projection."""
    return Config(
        run_dir="runs/chat",
        init_from="runs/smollm2",
        epochs=2,
        model=ModelConfig(
            lora=LoraConfig(
                rank=16,
                alpha=32.0,
                targets=("query", "key", "value", "out", "gate", "up", "down"),
            )
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        tasks=(ChatTask(train=(FileTable(("data/train.jsonl",)),), dev_fraction=0.05),),
        data=DataConfig(batch_size=8, length=512),
        optimizer=AdamWConfig(
            learning_rate=5e-4,
            beta2=0.999,
            weight_decay=0.0,
            schedule=ScheduleConfig(warmup_steps=10),
        ),
        checkpoint=CheckpointConfig(every=100),
        evaluation=EvaluationConfig(every=100, batch_size=8),
    )
