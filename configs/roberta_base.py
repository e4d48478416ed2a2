"""RoBERTa base (arXiv:1907.11692): 125M parameters, masked tokens, large batches.

Command:  pip install 'llmjax[cuda13,hub]' && llmjax train roberta_base
          on your own text: --data.sources "my/*.jsonl.zst"
Hardware: eight GPUs of 24 GB or more; the batch splits over up to 64
Results:  not measured yet
"""

from dataclasses import replace

from llmjax import (
    AdamWConfig,
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    HubSource,
    MaskedConfig,
    ScheduleConfig,
    SentencePieceConfig,
)
from llmjax.model.families import roberta_base


def config() -> Config:
    """A million tokens per step, in 32 microbatches."""
    return Config(
        run_dir="runs/roberta_base",
        steps=100_000,
        model=replace(roberta_base(vocab_size=0), token_types=0),
        compute=ComputeConfig(dtype="bfloat16", dropout=0.1),
        tokenizer=SentencePieceConfig(vocab_size=50_265, split_digits=False),
        objective=MaskedConfig(),
        data=DataConfig(
            sources=(HubSource("HuggingFaceFW/fineweb-edu", subset="sample-10BT"),),
            batch_size=2048,
            length=512,
            validation_fraction=0.001,
            validation_max_bytes=8 << 20,
        ),
        optimizer=AdamWConfig(
            learning_rate=6e-4,
            schedule=ScheduleConfig(shape="linear", warmup_steps=6_000, final_fraction=0.0),
            accumulate=32,
        ),
        checkpoint=CheckpointConfig(every=5000),
        evaluation=EvaluationConfig(every=2000, batch_size=32, max_tokens=1 << 19),
    )
