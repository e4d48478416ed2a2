"""Checks of a model config."""

import math
from collections.abc import Iterator
from dataclasses import replace

from llmjax.errors import UserError
from llmjax.model.config import ModelConfig, choice_problems
from llmjax.model.latent import latent_problems
from llmjax.model.linear import linear_problems
from llmjax.model.lora import lora_problems
from llmjax.model.moe_config import moe_problems
from llmjax.model.rope import Llama3Scaling, LongRopeScaling, YarnScaling

NOT_LATENT = (
    ("head_dim", None),
    ("qk_norm", False),
    ("rotary_fraction", 1.0),
    ("attention_sinks", False),
    ("attention_gate", False),
)
MSCALES = ("mscale", "mscale_all_dim")


def resolve(config: ModelConfig, tokenizer_vocab_size: int) -> ModelConfig:
    """Sets the vocabulary size and checks the config.

    Raises:
      UserError: lists all problems.
    """
    if config.vocab_size == 0:
        config = replace(config, vocab_size=-(-tokenizer_vocab_size // 128) * 128)
    mistakes = list(problems(config))
    if 0 < config.vocab_size < tokenizer_vocab_size:
        mistakes.append(f"vocab_size {config.vocab_size} < the tokenizer's {tokenizer_vocab_size}")
    if mistakes:
        raise UserError("model", "; ".join(mistakes))
    return config


def problems(config: ModelConfig) -> Iterator[str]:
    """Yields what is wrong with a config, a line each."""
    yield from choice_problems(config)
    for name in ("vocab_size", "max_length", "d_model", "num_heads", "query_growth_length"):
        if getattr(config, name) < 1:
            yield f"{name} must be positive, not {getattr(config, name)}"
    if config.d_model == 1:  # useless, and JAX 0.12 does not differentiate it on a mesh
        yield "d_model 1 is a single number, which the norms make a constant; give 2 or more"
    for name in ("num_kv_heads", "head_dim", "d_ff", "window"):
        size = getattr(config, name)
        if size is not None and size < 1:
            yield f"{name} must be positive or None, not {size}"
    yield from _layer_problems(config)
    yield from _head_problems(config)
    if config.linear is not None:
        yield from linear_problems(config.linear, config.num_decoder_layers)
        if config.num_encoder_layers or not config.num_decoder_layers:
            yield "linear needs a decoder alone"
    if config.multi_token:
        yield from _multi_token_conflicts(config)
    if config.multi_token_experts and (config.moe is None or not config.multi_token):
        yield "multi_token_experts has no meaning without multi_token and moe"
    yield from _number_problems(config)
    if config.moe is not None:
        yield from (f"moe: {problem}" for problem in choice_problems(config.moe))
        layers = max(config.num_encoder_layers, config.num_decoder_layers)
        yield from moe_problems(config.moe, layers)


def _layer_problems(config: ModelConfig) -> Iterator[str]:
    layers = (config.num_encoder_layers, config.num_decoder_layers)
    if min(layers) < 0:
        yield f"layers must not be negative: encoder {layers[0]}, decoder {layers[1]}"
    elif max(layers) == 0:
        yield "no layers: give num_decoder_layers, num_encoder_layers or both"
    for name in ("global_layers", "unrotated_layers"):
        numbers = getattr(config, name)
        if any(not 0 <= layer < max(layers) for layer in numbers):
            yield f"{name} {list(numbers)} are not all among the {max(layers)} layers"
    if config.layer_d_ff and len(config.layer_d_ff) != max(layers):
        yield f"layer_d_ff has {len(config.layer_d_ff)} widths for {max(layers)} layers"
    if any(width < 1 for width in config.layer_d_ff):
        yield f"layer_d_ff {list(config.layer_d_ff)} are not all positive"
    for name in ("global_layers", "window_chunks"):
        if getattr(config, name) and config.window is None:
            yield f"{name} has no meaning without window"
    if config.parallel_residual and (config.norm_placement != "pre" or min(layers) > 0):
        yield "parallel_residual needs norm_placement pre and a single stack"
    if config.shared_norm and not config.parallel_residual:
        yield "shared_norm needs parallel_residual"
    if not config.first_norm and config.norm_placement != "pre":
        yield "first_norm false needs norm_placement pre"
    if config.relative_buckets < 4 or config.relative_max_distance <= config.relative_buckets // 2:
        yield "relative_buckets must be at least 4 and below twice relative_max_distance"


def _head_problems(config: ModelConfig) -> Iterator[str]:
    if config.num_heads < 1 or config.kv_heads < 1:
        return
    if config.head_dim is None and config.mla is None and config.d_model % config.num_heads:
        yield f"d_model {config.d_model} does not divide into {config.num_heads} heads"
    if config.mla is not None:
        yield from latent_problems(config.mla)
        yield from _latent_conflicts(config)
    if config.attention_sinks and config.is_encoder_decoder:
        yield "attention_sinks needs a single stack"
    if config.attention_gate and config.is_encoder_decoder:
        yield "attention_gate needs a single stack"
    if config.num_heads % config.kv_heads:
        yield f"num_heads {config.num_heads} is no multiple of num_kv_heads {config.kv_heads}"
    if config.positions == "rotary":
        yield from _rotary_problems(config)
    if config.qk_norm_over == "rotated" and config.qk_norm_kind != "rmsnorm":
        yield "qk_norm_over rotated needs qk_norm_kind rmsnorm"
    if config.query_growth and config.mla is not None:
        yield "query_growth has no meaning with mla"
    if config.positions == "sinusoidal" and config.d_model % 2:
        yield f"sinusoidal positions need an even d_model, not {config.d_model}"


def _multi_token_conflicts(config: ModelConfig) -> Iterator[str]:
    if config.num_encoder_layers or not config.num_decoder_layers:
        yield "multi_token needs a decoder alone"
    if config.positions in ("learned", "relative") or config.norm_placement == "post":
        yield "multi_token needs positions rotary, sinusoidal or none, and a final norm"
    if config.token_types or config.embed_norm:
        yield "multi_token and token_types or embed_norm exclude each other"


def _latent_conflicts(config: ModelConfig) -> Iterator[str]:
    """Fields of other attention that latent attention has no use for."""
    if config.is_encoder_decoder:
        yield "mla needs a single stack"
    if config.positions == "relative":
        yield "mla and positions relative exclude each other"
    if config.kv_heads != config.num_heads:
        yield f"num_kv_heads {config.kv_heads} with mla: every head has keys; leave it None"
    for name, unused in NOT_LATENT:
        if getattr(config, name) != unused:
            yield f"{name} has no meaning with mla"


def _rotary_problems(config: ModelConfig) -> Iterator[str]:
    if not 0 < config.rotary_fraction <= 1:
        yield f"rotary_fraction must be above 0 and at most 1, not {config.rotary_fraction}"
    elif config.rotated_width % 2 or not config.rotated_width:
        yield f"rotary positions need an even number of dimensions, not {config.rotated_width}"
    else:
        yield from _scaling_problems(config, config.rotated_width // 2)


def _scaling_problems(config: ModelConfig, pairs: int) -> Iterator[str]:
    scaling = config.rope_scaling
    if isinstance(scaling, LongRopeScaling):
        for name in ("short_factors", "long_factors"):
            factors = getattr(scaling, name)
            if len(factors) != pairs or not all(0 < factor < math.inf for factor in factors):
                yield f"rope_scaling.{name} must be {pairs} positive numbers"
    for name in ("factor", "attention_factor", "beta_fast", "beta_slow", *MSCALES):
        number = getattr(scaling, name, None)
        if number is not None and not 0 < number < math.inf:
            yield f"rope_scaling.{name} must be positive and finite, not {number}"
    if getattr(scaling, "original_length", 2) < 2:
        yield "rope_scaling.original_length must be at least 2"
    if isinstance(scaling, Llama3Scaling):
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        if not 0 <= low <= high < math.inf:
            yield (
                "rope_scaling.low_frequency_factor must be from 0 up and at most "
                f"high_frequency_factor, not {low} and {high}"
            )
    if isinstance(scaling, YarnScaling) and config.rope_theta <= 1:
        yield f"rope_scaling yarn needs a rope_theta above 1, not {config.rope_theta}"


def _number_problems(config: ModelConfig) -> Iterator[str]:
    for name in (
        "norm_epsilon",
        "rope_theta",
        "logit_scale",
        "embed_multiplier",
        "residual_multiplier",
    ):
        if not 0 < getattr(config, name) < float("inf"):
            yield f"{name} must be positive and finite, not {getattr(config, name)}"
    if not 0 <= config.query_growth < math.inf:
        yield f"query_growth must be from 0 up and finite, not {config.query_growth}"
    if not math.isfinite(config.up_offset):
        yield f"up_offset must be finite, not {config.up_offset}"
    if config.up_offset and not config.gated:
        yield "up_offset has no meaning without gated"
    for name in (
        "activation_limit",
        "attention_softcap",
        "logit_softcap",
        "attention_scale",
        "window_rope_theta",
    ):
        number = getattr(config, name)
        if number is not None and not 0 < number < float("inf"):
            yield f"{name} must be positive and finite or None, not {number}"
    for name in ("first_position", "token_types"):
        if getattr(config, name) < 0:
            yield f"{name} must not be negative, but is {getattr(config, name)}"
    if config.norm_bias and config.norm == "rmsnorm":
        yield "norm_bias needs norm layernorm: RMSNorm has no bias"
    if config.lora is not None:
        yield from lora_problems(config.lora, _missing_projections(config))


def _missing_projections(config: ModelConfig) -> dict[str, str]:
    """Projections that a model lacks, and the module that others have them in."""
    missing = {} if config.gated else {"gate": "MLP"}
    if not config.attention_gate and config.linear is None:
        missing["output_gate"] = "attention"
    if config.mla is None:
        return missing | dict.fromkeys(("query_down", "kv_down", "key_rope"), "attention")
    return missing | ({} if config.compresses_queries else {"query_down": "attention"})
