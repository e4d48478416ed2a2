"""Published model families as values of `ModelConfig`; weights are converted elsewhere.

Sizes are those of the published configs. `vocab_size` is a parameter, so that the same shape can be
trained with another tokenizer.
"""

from dataclasses import replace
from typing import Literal

from llmjax.model.config import ModelConfig

GPT2_SIZES: dict[str, tuple[int, int, int]] = {
    "124M": (12, 768, 12),
    "355M": (24, 1024, 16),
    "774M": (36, 1280, 20),
    "1558M": (48, 1600, 25),
}
"""Layers, width, heads."""

Gpt2Size = Literal["124M", "355M", "774M", "1558M"]
LlamaSize = Literal["1B", "8B"]


def tiny(vocab_size: int = 0, max_length: int = 256) -> ModelConfig:
    """A Llama-like decoder of about 3M parameters, for a laptop."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_length=max_length,
        d_model=192,
        num_decoder_layers=4,
        num_heads=6,
        num_kv_heads=2,
        qk_norm=True,
    )


def gpt2(size: Gpt2Size = "124M", vocab_size: int = 50257) -> ModelConfig:
    """GPT-2 (Radford et al. 2019): learned positions, pre-LayerNorm, biases everywhere."""
    layers, width, heads = GPT2_SIZES[size]
    return ModelConfig(
        vocab_size=vocab_size,
        max_length=1024,
        d_model=width,
        num_decoder_layers=layers,
        num_heads=heads,
        activation="gelu_tanh",
        gated=False,
        norm="layernorm",
        norm_epsilon=1e-5,
        norm_bias=True,
        positions="learned",
        qkv_bias=True,
        attention_out_bias=True,
        mlp_bias=True,
    )


def llama(size: LlamaSize = "8B", vocab_size: int = 128256) -> ModelConfig:
    """Llama 3 shapes (arXiv:2407.21783): grouped heads, rotary base 500,000, SwiGLU.

    1B is from Llama 3.2, with tied embeddings. Neither has the RoPE scaling of later models.
    """
    base = ModelConfig(
        vocab_size=vocab_size,
        max_length=8192,
        num_heads=32,
        num_kv_heads=8,
        norm_epsilon=1e-5,
        rope_theta=500000.0,
    )
    if size == "1B":
        return replace(base, d_model=2048, num_decoder_layers=16, d_ff=8192, tie_embeddings=True)
    return replace(base, d_model=4096, num_decoder_layers=32, d_ff=14336, tie_embeddings=False)


def bert_base(vocab_size: int = 30522) -> ModelConfig:
    """BERT base (arXiv:1810.04805): an encoder with post-LayerNorm and normalized embeddings.

    Has the head for masked tokens, not the pooler for classifiers.
    """
    return ModelConfig(
        vocab_size=vocab_size,
        max_length=512,
        d_model=768,
        num_encoder_layers=12,
        num_decoder_layers=0,
        num_heads=12,
        activation="gelu",
        gated=False,
        norm="layernorm",
        norm_placement="post",
        norm_epsilon=1e-12,
        norm_bias=True,
        positions="learned",
        embed_norm=True,
        qkv_bias=True,
        attention_out_bias=True,
        mlp_bias=True,
        token_types=2,
        lm_head_bias=True,
        lm_head_transform=True,
    )


def roberta_base(vocab_size: int = 50265) -> ModelConfig:
    """RoBERTa base (arXiv:1907.11692): BERT's shape, one token type, positions from row 2."""
    return replace(bert_base(vocab_size), norm_epsilon=1e-5, first_position=2, token_types=1)


def t5_small(vocab_size: int = 32128) -> ModelConfig:
    """T5 small (arXiv:1910.10683): an encoder-decoder with relative positions and tied logits."""
    return ModelConfig(
        vocab_size=vocab_size,
        max_length=512,
        d_model=512,
        num_encoder_layers=6,
        num_decoder_layers=6,
        num_heads=8,
        d_ff=2048,
        activation="relu",
        gated=False,
        positions="relative",
        attention_scale=1.0,
        logit_scale=512**-0.5,
    )
