"""What the runs of a scaling ladder on two cores share: its smallest useful sizes.

Command:  llmjax scale ladder --run-dir runs/ladder --held-out-depth 8
"""

from llmjax import (
    CompleteP,
    ComputeConfig,
    Config,
    DataConfig,
    EmbeddedSource,
    EvaluationConfig,
    ModelConfig,
    MuonConfig,
    PackagesSource,
    ScheduleConfig,
    SentencePieceConfig,
)


def config() -> Config:
    """A Llama-style decoder of 4 layers, from which the other depths follow; Muon, CompleteP."""
    return Config(
        run_dir="runs/ladder",
        steps=400,
        model=ModelConfig(
            max_length=256,
            d_model=128,
            num_decoder_layers=4,
            num_heads=4,
            qk_norm=True,
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        tokenizer=SentencePieceConfig(vocab_size=2048),
        data=DataConfig(
            sources=(EmbeddedSource(), PackagesSource(weight=3.0)),
            validation_max_bytes=1 << 18,
            batch_size=16,
            length=256,
        ),
        optimizer=MuonConfig(
            learning_rate=5e-3,
            schedule=ScheduleConfig(
                shape="wsd", warmup_steps=20, final_fraction=0.0, decay_fraction=0.3
            ),
        ),
        parametrization=CompleteP(base_width=128, base_depth=4),
        evaluation=EvaluationConfig(every=0, max_tokens=65536),
    )
