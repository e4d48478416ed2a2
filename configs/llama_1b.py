"""The shape of Llama 3.2 1B: 1.24B parameters, 25B tokens of web text (20 per parameter).

Command:  pip install 'llmjax[cuda13,hub]' && llmjax train llama_1b
          with an existing tokenizer: --tokenizer path/to/tokenizer.json
Hardware: eight GPUs of 80 GB, or a TPU slice with as much memory
Results:  not measured yet
"""

from llmjax import (
    AdamWConfig,
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    HubSource,
    ModelConfig,
    SamplesConfig,
    ScheduleConfig,
    SentencePieceConfig,
)


def config() -> Config:
    """A million tokens per step, in four microbatches; state and batch sharded over all devices."""
    return Config(
        run_dir="runs/llama_1b",
        steps=23_842,
        model=ModelConfig(
            max_length=2048,
            d_model=2048,
            num_decoder_layers=16,
            num_heads=32,
            num_kv_heads=8,
            d_ff=8192,
            norm_epsilon=1e-5,
            rope_theta=500_000.0,
        ),
        compute=ComputeConfig(dtype="bfloat16", remat="dots"),
        tokenizer=SentencePieceConfig(vocab_size=128_256, sample_bytes=256 << 20),
        data=DataConfig(
            sources=(HubSource("HuggingFaceFW/fineweb-edu", subset="sample-100BT"),),
            batch_size=512,
            length=2048,
            validation_fraction=0.001,
            validation_max_bytes=8 << 20,
        ),
        optimizer=AdamWConfig(
            learning_rate=4e-4, schedule=ScheduleConfig(warmup_steps=1000), accumulate=4
        ),
        checkpoint=CheckpointConfig(every=1000),
        evaluation=EvaluationConfig(every=1000, batch_size=64, max_tokens=1 << 20),
        samples=SamplesConfig(every=1000, prompts=("The history of", "In order to")),
    )
