"""The quickstart with a mixture of experts in place of each MLP: as many active parameters.

Command:  llmjax train moe_quickstart
Hardware: 2 CPU cores (AMD EPYC with AVX512-BF16)
Time:     3.5 minutes (the quickstart: 2 on the same machine)
Results:  1.77 bits per byte on the validation text of the quickstart, which reaches 1.82 with the
          same tokens; of 10.8M parameters a token uses 4.27M, as many as there
"""

from llmjax import (
    ComputeConfig,
    Config,
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    ModelConfig,
    MoEConfig,
    MuonConfig,
    SamplesConfig,
    ScheduleConfig,
    SentencePieceConfig,
)


def config() -> Config:
    """Of 8 experts of half the quickstart's width, each token uses 2; Muon."""
    return Config(
        run_dir="runs/moe_quickstart",
        steps=200,
        model=ModelConfig(
            max_length=256,
            d_model=256,
            num_decoder_layers=4,
            num_heads=4,
            qk_norm=True,
            moe=MoEConfig(num_experts=8, experts_per_token=2, expert_width=352, balance_loss=0.01),
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
