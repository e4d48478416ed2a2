"""The shape of Llama 3.1 8B: 8.03B parameters, 160B tokens of web text (20 per parameter).

Command:  on every host, llmjax train llama_8b; see launch/README.md for SLURM and TPU pods
          with an existing tokenizer: --tokenizer path/to/tokenizer.json
          tensor parallelism within hosts of 8 GPUs: --mesh.tensor 8
Hardware: 64 GPUs of 80 GB, or a TPU slice with as much memory
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
    """Four million tokens per step; state and batch sharded over all devices."""
    return Config(
        run_dir="runs/llama_8b",
        steps=38_147,
        model=ModelConfig(
            max_length=8192,
            d_model=4096,
            num_decoder_layers=32,
            num_heads=32,
            num_kv_heads=8,
            d_ff=14_336,
            norm_epsilon=1e-5,
            rope_theta=500_000.0,
            tie_embeddings=False,
        ),
        compute=ComputeConfig(dtype="bfloat16", remat="full"),
        tokenizer=SentencePieceConfig(vocab_size=128_256, sample_bytes=256 << 20),
        data=DataConfig(
            sources=(HubSource("HuggingFaceFW/fineweb-edu", subset="sample-350BT"),),
            batch_size=512,
            length=8192,
            validation_fraction=0.0002,
            validation_max_bytes=8 << 20,
        ),
        optimizer=AdamWConfig(learning_rate=3e-4, schedule=ScheduleConfig(warmup_steps=2000)),
        checkpoint=CheckpointConfig(every=500),
        evaluation=EvaluationConfig(every=1000, batch_size=64, max_tokens=1 << 20),
        samples=SamplesConfig(every=1000, prompts=("The history of", "In order to")),
    )
