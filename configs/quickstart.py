"""A small language model of the text that comes with Python: the first run.

Command:  llmjax train quickstart          (or: make quickstart, which also evaluates and reports)
Hardware: 2 CPU cores (AMD EPYC with AVX512-BF16)
Time:     3 minutes
Results:  1.82 bits per byte on the validation text (42 documents of Python 3.11, 121,301 bytes);
          xz -9e needs 2.35, brotli 11 needs 2.18
"""

from llmjax import (
    ComputeConfig,
    Config,
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    ModelConfig,
    MuonConfig,
    SamplesConfig,
    ScheduleConfig,
    SentencePieceConfig,
)


def config() -> Config:
    """A Llama-style model of 4.3M parameters on rows of 256 tokens; Muon."""
    return Config(
        run_dir="runs/quickstart",
        steps=200,
        model=ModelConfig(
            max_length=256,
            d_model=256,
            num_decoder_layers=4,
            num_heads=4,
            qk_norm=True,
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        tokenizer=SentencePieceConfig(vocab_size=4096),
        data=DataConfig(batch_size=16, length=256),
        optimizer=MuonConfig(
            learning_rate=8e-3,
            schedule=ScheduleConfig(
                shape="wsd", warmup_steps=10, final_fraction=0.0, decay_fraction=0.6
            ),
        ),
        evaluation=EvaluationConfig(every=50, max_tokens=8192),
        samples=SamplesConfig(
            every=100,
            prompts=("The for statement is used to", "Return a new list containing"),
            decoding=DecodingConfig(max_new_tokens=40),
        ),
    )
