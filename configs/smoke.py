"""The smallest complete run, for tests and to try a mesh.

Command:  llmjax train smoke
          llmjax train smoke --cpu-devices 8 --mesh.data 2 --mesh.tensor 2 --run-dir runs/meshed
Hardware: any computer
"""

from llmjax import (
    AdamWConfig,
    BytesConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    SamplesConfig,
    ScheduleConfig,
)


def config() -> Config:
    """Twenty steps of two narrow layers, on bytes."""
    return Config(
        run_dir="runs/smoke",
        steps=20,
        model=ModelConfig(max_length=64, d_model=32, num_decoder_layers=2, num_heads=2),
        tokenizer=BytesConfig(),
        data=DataConfig(batch_size=8, length=64, validation_fraction=0.02, workers=1),
        optimizer=AdamWConfig(schedule=ScheduleConfig(warmup_steps=2)),
        checkpoint=CheckpointConfig(every=10),
        evaluation=EvaluationConfig(every=10, max_tokens=2048),
        samples=SamplesConfig(every=10, decoding=DecodingConfig(max_new_tokens=8)),
        log=LogConfig(every=5),
    )
