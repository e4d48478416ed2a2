"""The shape of DeepSeek-V3: 671B parameters, 37B of them active, and a second token predicted.

Command:  on every host, llmjax train deepseek_v3_shape; see launch/README.md for TPU pods
          with an existing tokenizer: --tokenizer path/to/tokenizer.json
Hardware: a TPU slice of 1,024 v5p
Results:  not measured; 502 to 608 tokens/s a chip and 55.9 GiB predicted from the program that
          the TPU compiler makes (docs/performance.md)
"""

from llmjax import (
    AdamWConfig,
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    HubSource,
    LatentConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    MoEConfig,
    SamplesConfig,
    ScheduleConfig,
    SentencePieceConfig,
)


def config() -> Config:
    """16.8 million tokens per step; 64 devices share the experts of a layer, four each."""
    return Config(
        run_dir="runs/deepseek_v3_shape",
        steps=880_000,
        model=ModelConfig(
            max_length=4096,
            d_model=7168,
            num_decoder_layers=61,
            num_heads=128,
            d_ff=18_432,
            mla=LatentConfig(
                kv_rank=512,
                query_rank=1536,
                nope_head_dim=128,
                rope_head_dim=64,
                value_head_dim=128,
            ),
            tie_embeddings=False,
            multi_token=True,
            moe=MoEConfig(
                num_experts=256,
                experts_per_token=8,
                expert_width=2048,
                dense_layers=(0, 1, 2),
                scores="sigmoid",
                weight_scale=2.5,
                selection_bias=True,
                groups=8,
                groups_per_token=4,
                shared_width=2048,
            ),
        ),
        compute=ComputeConfig(dtype="bfloat16", remat="full"),
        tokenizer=SentencePieceConfig(vocab_size=129_280, sample_bytes=256 << 20),
        data=DataConfig(
            sources=(HubSource("HuggingFaceFW/fineweb-edu", subset="sample-350BT"),),
            batch_size=4096,
            length=4096,
            validation_fraction=0.0002,
            validation_max_bytes=8 << 20,
        ),
        optimizer=AdamWConfig(
            learning_rate=2.2e-4,
            moment_dtype="bfloat16",
            accumulate=2,
            schedule=ScheduleConfig(warmup_steps=2000),
        ),
        loss=LossConfig(multi_token_weight=0.3),
        mesh=MeshConfig(data=2, expert=64),
        checkpoint=CheckpointConfig(every=500),
        evaluation=EvaluationConfig(every=1000, batch_size=1024, max_tokens=4 << 20),
        samples=SamplesConfig(every=1000, prompts=("The history of", "In order to")),
    )
