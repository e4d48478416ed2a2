"""The shape of Mixtral 8x7B: 46.7B parameters, 12.9B of them active; 258B tokens of web text.

Command:  on every host, llmjax train mixtral_8x7b; see launch/README.md for SLURM and TPU pods
          with an existing tokenizer: --tokenizer path/to/tokenizer.json
Hardware: a TPU slice of 256 v5p
Results:  not measured yet; 2,132 to 2,783 tokens/s a chip predicted from the program that the TPU
          compiler makes (docs/performance.md)
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
    MoEConfig,
    SamplesConfig,
    ScheduleConfig,
    SentencePieceConfig,
)


def config() -> Config:
    """Eight million tokens per step; state and batch sharded over all devices."""
    return Config(
        run_dir="runs/mixtral_8x7b",
        steps=30_760,
        model=ModelConfig(
            max_length=4096,
            d_model=4096,
            num_decoder_layers=32,
            num_heads=32,
            num_kv_heads=8,
            d_ff=14_336,
            norm_epsilon=1e-5,
            rope_theta=1_000_000.0,
            tie_embeddings=False,
            moe=MoEConfig(num_experts=8, experts_per_token=2, balance_loss=0.02),
        ),
        compute=ComputeConfig(dtype="bfloat16", remat="full"),
        tokenizer=SentencePieceConfig(vocab_size=32_000, sample_bytes=256 << 20),
        data=DataConfig(
            sources=(HubSource("HuggingFaceFW/fineweb-edu", subset="sample-350BT"),),
            batch_size=2048,
            length=4096,
            validation_fraction=0.0002,
            validation_max_bytes=8 << 20,
        ),
        optimizer=AdamWConfig(learning_rate=3e-4, schedule=ScheduleConfig(warmup_steps=2000)),
        checkpoint=CheckpointConfig(every=500),
        evaluation=EvaluationConfig(every=1000, batch_size=256, max_tokens=1 << 20),
        samples=SamplesConfig(every=1000, prompts=("The history of", "In order to")),
    )
