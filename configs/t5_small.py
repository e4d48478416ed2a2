"""T5 small (arXiv:1910.10683): 60M parameters, span corruption of web text.

Command:  pip install 'llmjax[cuda13,hub]' && llmjax train t5_small
          on your own text: --data.sources "my/*.jsonl.zst"
Hardware: one GPU of 24 GB or more; the batch splits over up to 32
Results:  not measured yet
"""

from llmjax import (
    AdafactorConfig,
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    HubSource,
    ScheduleConfig,
    SentencePieceConfig,
    SpanConfig,
)
from llmjax.model.families import t5_small


def config() -> Config:
    """65,536 tokens per step, as in the paper."""
    return Config(
        run_dir="runs/t5_small",
        steps=524_288,
        model=t5_small(vocab_size=0),
        compute=ComputeConfig(dtype="bfloat16", dropout=0.1),
        tokenizer=SentencePieceConfig(vocab_size=32_100, split_digits=False),
        objective=SpanConfig(),
        data=DataConfig(
            sources=(HubSource("HuggingFaceFW/fineweb-edu", subset="sample-10BT"),),
            batch_size=128,
            length=512,
            validation_fraction=0.001,
            validation_max_bytes=8 << 20,
        ),
        optimizer=AdafactorConfig(
            learning_rate=1e-2, schedule=ScheduleConfig(warmup_steps=10_000), accumulate=4
        ),
        checkpoint=CheckpointConfig(every=5000),
        evaluation=EvaluationConfig(every=2000, batch_size=32, max_tokens=1 << 19),
    )
