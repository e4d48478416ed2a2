"""A small language model of the text that every Python carries: the first run.

Command:  llmjax train quickstart          (or: make quickstart)
Hardware: 2 CPU cores
"""

from llmjax.config import Config, SamplesConfig
from llmjax.data.config import DataConfig, SentencePieceConfig
from llmjax.decoding.config import DecodingConfig
from llmjax.model.config import ModelConfig
from llmjax.optimizers.config import AdamWConfig, ScheduleConfig
from llmjax.scoring.config import EvaluationConfig


def config() -> Config:
    """A Llama-style model of about 6M parameters on rows of 256 tokens."""
    return Config(
        run_dir="runs/quickstart",
        steps=400,
        model=ModelConfig(
            max_length=256,
            d_model=256,
            num_decoder_layers=6,
            num_heads=4,
            compute_dtype="bfloat16",
        ),
        tokenizer=SentencePieceConfig(vocab_size=4096),
        data=DataConfig(batch_size=16, length=256),
        optimizer=AdamWConfig(learning_rate=3e-3, schedule=ScheduleConfig(warmup_steps=40)),
        evaluation=EvaluationConfig(every=200, max_tokens=16384),
        samples=SamplesConfig(
            every=200,
            prompts=("The for statement is used to", "Return a new list containing"),
            decoding=DecodingConfig(max_new_tokens=40),
        ),
    )
