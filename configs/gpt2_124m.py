"""GPT-2 small (Radford et al. 2019): 124M parameters, 10B tokens of web text.

Command:  pip install 'llmjax[cuda13,hub]' && llmjax train gpt2_124m
          on your own text: --data.sources "my/*.jsonl.zst"
          the same on more GPUs; with less memory: --optimizer.accumulate 64
Hardware: one GPU of 24 GB or more; the batch splits over up to 16
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
    """Half a million tokens per step, in 32 microbatches."""
    return Config(
        run_dir="runs/gpt2_124m",
        steps=19_073,
        model=ModelConfig(
            max_length=1024,
            d_model=768,
            num_decoder_layers=12,
            num_heads=12,
            activation="gelu_tanh",
            gated=False,
            norm="layernorm",
            norm_epsilon=1e-5,
            norm_bias=True,
            positions="learned",
            qkv_bias=True,
            attention_out_bias=True,
            mlp_bias=True,
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        tokenizer=SentencePieceConfig(vocab_size=50_257, split_digits=False),
        data=DataConfig(
            sources=(HubSource("HuggingFaceFW/fineweb-edu", subset="sample-10BT"),),
            batch_size=512,
            length=1024,
            validation_fraction=0.001,
            validation_max_bytes=8 << 20,
        ),
        optimizer=AdamWConfig(
            learning_rate=6e-4, schedule=ScheduleConfig(warmup_steps=700), accumulate=32
        ),
        checkpoint=CheckpointConfig(every=1000),
        evaluation=EvaluationConfig(every=500, batch_size=32, max_tokens=1 << 19),
        samples=SamplesConfig(every=1000, prompts=("The history of", "In order to")),
    )
