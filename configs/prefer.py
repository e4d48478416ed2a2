"""The better of two answers: a decoder learns preferences (DPO), by adapters (LoRA).

Begin:    a decoder that already answers, as by `llmjax train chat`; its adapters are merged
Data:     data/pairs.jsonl, a line {"prompt": ..., "chosen": ..., "rejected": ...} for each pair,
          as text or as lists of messages. A tenth is held out.
Command:  llmjax train prefer
          llmjax evaluate runs/prefer       (how often the better answer is the likelier one)
Hardware: two CPU cores for a few hundred pairs; any accelerator
Figure:   see docs/tasks.md; the loss begins at ln 2
"""

from llmjax.data.config import DataConfig
from llmjax.data.tables.files import FileTable
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.config.schema import Config
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.preference import PreferenceTask


def config() -> Config:
    """A pair has 512 tokens, both answers together; adapters of rank 16."""
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
