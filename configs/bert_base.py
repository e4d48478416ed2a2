"""BERT base (arXiv:1810.04805): 109M parameters, whole-word masking on web text, no sentence pairs.

Command:  pip install 'llmjax[cuda13,hub]' && llmjax train bert_base
          on your own text: --data.sources "my/*.jsonl.zst"
Hardware: one GPU of 24 GB or more; the batch splits over up to 16
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
from llmjax.model.families import bert_base


def config() -> Config:
    """131,072 tokens a step, as in the paper's longer rows."""
    return Config(
        run_dir="runs/bert_base",
        steps=100_000,
        model=replace(bert_base(vocab_size=0), token_types=0),
        compute=ComputeConfig(dtype="bfloat16", dropout=0.1),
        tokenizer=SentencePieceConfig(vocab_size=30_522, split_digits=False),
        objective=MaskedConfig(),
        data=DataConfig(
            sources=(HubSource("HuggingFaceFW/fineweb-edu", subset="sample-10BT"),),
            batch_size=256,
            length=512,
            validation_fraction=0.001,
            validation_max_bytes=8 << 20,
        ),
        optimizer=AdamWConfig(
            learning_rate=1e-4,
            schedule=ScheduleConfig(shape="linear", warmup_steps=10_000, final_fraction=0.0),
            accumulate=8,
        ),
        checkpoint=CheckpointConfig(every=5000),
        evaluation=EvaluationConfig(every=2000, batch_size=32, max_tokens=1 << 19),
    )
