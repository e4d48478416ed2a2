"""The metadata of a GGUF file as the config.json that Transformers would have.

Keys are those of gguf-py's constants. A key that is not known here is refused, for it might change
the numbers.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from llmjax.convert.gguf.file import GgufFile, Metadata, short
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.rope import LinearScaling, Llama3Scaling, Unscaled, YarnScaling, frequencies


def read_rope_scaling(found: Metadata, config: dict[str, Any], width: int) -> dict[str, Any] | None:
    """`rope_scaling`, or None where nothing is scaled.

    Args:
      found: the file's keys.
      config: as far as it is known: max_position_embeddings and rope_theta.
      width: rotated dimensions of a head.

    Raises:
      UserError: a kind of scaling that is not supported.
    """
    kind = found.get("rope.scaling.type", "none")
    factor = found.get("rope.scaling.factor") or found.get("rope.scale_linear") or 0.0
    factor = short(factor) if isinstance(factor, int | float) else 0.0
    original = found.get("rope.scaling.original_context_length")
    for_long = found.floats("rope_factors_long.weight")
    for_short = found.floats("rope_factors_short.weight")
    factors = found.floats("rope_freqs.weight")
    if for_long and for_short:
        return _longrope(found, config, for_short, for_long)
    if factors is not None:
        return _llama3(found, config, factors, width)
    if kind == "none" or kind is None or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        found.fail(f"has rotary scaling {kind!r}, which is not supported")
    yarn = {"rope_type": "yarn", "factor": found.number("rope.scaling.factor")}
    yarn["original_max_position_embeddings"] = original or config["max_position_embeddings"]
    names = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
    for key, name in names.items():
        if found.get(f"rope.scaling.{key}") is not None:
            yarn[name] = found.number(f"rope.scaling.{key}")
    return yarn


def _longrope(
    found: Metadata, config: dict[str, Any], for_short: list[float], for_long: list[float]
) -> dict[str, Any]:
    scaling: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": for_short,
        "long_factor": for_long,
    }
    original = found.integer("rope.scaling.original_context_length")
    stretch = config["max_position_embeddings"] / original
    usual = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    given = found.number("rope.scaling.attn_factor", usual)
    if not math.isclose(given, usual, rel_tol=1e-5):
        scaling["attention_factor"] = given
    return scaling


def _llama3(
    found: Metadata, config: dict[str, Any], factors: list[float], width: int
) -> dict[str, Any] | None:
    """Llama 3's scaling from the divisor of each pair, which is all that a file keeps of it.

    With the published low and high factors 1 and 4, each blended pair tells the original length.
    What does not fit is kept pair by pair, as the factors of LongRoPE are.
    """
    theta, highest = config["rope_theta"], max(factors)
    if highest == min(factors) == 1.0:
        return None
    plain = theta ** (-np.arange(width // 2) * 2 / width)
    kept = (1 / np.asarray(factors) - 1 / highest) / (1 - 1 / highest)
    blended = (kept > 0.01) & (kept < 0.99)
    if len(factors) == width // 2 and highest > 1 and blended.any():
        lengths = (3 * kept + 1) * 2 * math.pi / plain
        original = round(float(np.median(lengths[blended])))
        guess = Llama3Scaling(highest, original)
        turns, _ = frequencies(guess, theta, width, config["max_position_embeddings"])
        if np.allclose(turns, plain / factors, rtol=1e-4, atol=0):
            return {
                "rope_type": "llama3",
                "factor": highest,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "original_max_position_embeddings": config["max_position_embeddings"],
        "attention_factor": 1.0,
    }


def rope_keys(shape: ModelConfig) -> dict[str, Any] | None:
    """The keys rope.scaling.* for a model; None where they cannot say its scaling."""
    match shape.rope_scaling:
        case Unscaled():
            return {}
        case Llama3Scaling(low_frequency_factor=1.0, high_frequency_factor=4.0):
            return {}  # a tensor says it
        case LinearScaling(factor=factor):
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(factor)}
        case YarnScaling(attention_factor=None, truncate=True) as yarn:
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(yarn.factor),
                "rope.scaling.original_context_length": yarn.original_length,
                "rope.scaling.yarn_beta_fast": float(yarn.beta_fast),
                "rope.scaling.yarn_beta_slow": float(yarn.beta_slow),
            }
    return None


def llama3_factors(scaling: Llama3Scaling, shape: ModelConfig) -> np.ndarray:
    """By what the frequency of each pair is divided, float32 [head_dim / 2]."""
    width, theta = shape.head_width, shape.rope_theta
    plain, _ = frequencies(Unscaled(), theta, width, shape.max_length)
    turns, _ = frequencies(scaling, theta, width, shape.max_length)
    return (plain.astype(np.float64) / turns).astype(np.float32)


NAMES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "smollm3": ("smollm3", "SmolLM3ForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "olmo2": ("olmo2", "Olmo2ForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "gptneox": ("gpt_neox", "GPTNeoXForCausalLM"),
}
"""Architecture in GGUF -> Transformers' model_type and class."""

WITHOUT_HEAD_DIM = ("olmo2", "phi3", "qwen2", "smollm3")
"""Architectures whose config.json does not say how wide a head is: width / heads."""
WITHOUT_BIAS_FIELD = ("phi3", "qwen2")
"""And whether attention has biases."""

WIDE_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose scores are divided by sqrt(width / heads): no key says so."""


def config_of(file: GgufFile) -> dict[str, Any]:
    """config.json of the model that a file holds.

    Raises:
      UserError: its architecture is not supported, a key is missing or has an impossible value, or
        one is there whose meaning is not known here.
    """
    found = Metadata(file)
    if found.architecture not in NAMES:
        raise UserError(
            file.path,
            f"is of architecture {found.architecture}",
            f"supported are {', '.join(sorted(NAMES))}",
        )
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise UserError(file.path, "is one part of several", "merge them first (llama-gguf-split)")
    _check_layers(found)
    model_type, name = NAMES[found.architecture]
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        found.fail("has no token_embd.weight")
    config = {"model_type": model_type, "architectures": [name], "vocab_size": table.shape[0]}
    config |= _special_tokens(file)
    specific: dict[str, Callable[[Metadata], dict[str, Any]]] = {
        "gpt2": _gpt2,
        "gptneox": _gpt_neox,
    }
    config |= specific.get(found.architecture, _llama_like)(found)
    config["tie_word_embeddings"] = "output.weight" not in file.tensors
    found.check_all_known()
    return config


def _check_layers(found: Metadata) -> None:
    """Refuses a number of layers that the file has not, before anything is made for each."""
    stated = found.integer("block_count")
    there = {name.split(".")[1] for name in found.file.tensors if name.startswith("blk.")}
    if len(there) != stated:
        found.fail(f"states {stated} layers and has the tensors of {len(there)}")


def _special_tokens(file: GgufFile) -> dict[str, int]:
    ids = {name: file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    ids["pad"] = file.metadata.get("tokenizer.ggml.padding_token_id")
    return {f"{name}_token_id": value for name, value in ids.items() if isinstance(value, int)}


def _gpt2(found: Metadata) -> dict[str, Any]:
    width = found.integer("embedding_length")
    return {
        "n_positions": found.integer("context_length"),
        "n_embd": width,
        "n_layer": found.integer("block_count"),
        "n_head": found.integer("attention.head_count"),
        "n_inner": found.integer("feed_forward_length", 4 * width),
        "layer_norm_epsilon": found.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }


def _gpt_neox(found: Metadata) -> dict[str, Any]:
    width, heads = found.integer("embedding_length"), found.integer("attention.head_count")
    return {
        "max_position_embeddings": found.integer("context_length"),
        "hidden_size": width,
        "num_hidden_layers": found.integer("block_count"),
        "num_attention_heads": heads,
        "intermediate_size": found.integer("feed_forward_length"),
        "layer_norm_eps": found.number("attention.layer_norm_epsilon"),
        "rotary_pct": found.integer("rope.dimension_count") / found.head_width(width, heads),
        "rotary_emb_base": found.number("rope.freq_base", 10000.0),
        "use_parallel_residual": bool(found.get("use_parallel_residual", True)),
        "hidden_act": "gelu",
        "attention_bias": True,
    }


def _llama_like(found: Metadata) -> dict[str, Any]:
    width, heads = found.integer("embedding_length"), found.integer("attention.head_count")
    rotated = found.get("rope.dimension_count")
    head = found.integer("attention.key_length", width // heads or None)
    if found.get("attention.value_length", head) != head:
        found.fail("has values of another width than keys")
    config: dict[str, Any] = {
        "max_position_embeddings": found.integer("context_length"),
        "hidden_size": width,
        "num_hidden_layers": found.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": found.integer("attention.head_count_kv", heads),
        "head_dim": head,
        "intermediate_size": found.integer("feed_forward_length"),
        "rms_norm_eps": found.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": found.number("rope.freq_base", 10000.0),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in found.file.tensors,
    }
    if found.get("expert_count", 0):
        found.fail("is a mixture of experts, which is not supported")
    if rotated not in (None, head):
        if found.architecture != "phi3":
            found.fail(f"rotates {rotated} of {head} dimensions, which {found.architecture} cannot")
        config["partial_rotary_factor"] = found.integer("rope.dimension_count") / head
    config["rope_scaling"] = read_rope_scaling(found, config, rotated or head)
    if found.architecture in WITHOUT_HEAD_DIM and config.pop("head_dim") * heads != width:
        found.fail(f"has heads of {head}, which {found.architecture} cannot")
    if found.architecture in WITHOUT_BIAS_FIELD:
        del config["attention_bias"]
    return config | _peculiar(found, config)


def _peculiar(found: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    """What only some of the architectures have."""
    layers = config["num_hidden_layers"]
    match found.architecture:
        case "llama":
            return {"mlp_bias": "blk.0.ffn_up.bias" in found.file.tensors}
        case "smollm3":
            rotated = [int((layer + 1) % 4 != 0) for layer in range(layers)]
            return {"no_rope_layers": rotated, "use_sliding_window": False}
        case "qwen2" | "qwen3":
            return {"use_sliding_window": False}
        case "phi3":
            window = found.get("attention.sliding_window")
            original = found.get("rope.scaling.original_context_length")
            original = original or config["max_position_embeddings"]
            return {
                "sliding_window": window or None,
                "original_max_position_embeddings": original,
            }
        case "gemma" | "gemma2" | "gemma3":
            return _gemma(found, config)
    return {}


def _gemma(found: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    del config["hidden_act"]
    changed: dict[str, Any] = {"hidden_activation": "gelu_pytorch_tanh"}
    if found.architecture == "gemma":
        return changed
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    wide = layers == WIDE_GEMMA[found.architecture]
    scalar = config["hidden_size"] // heads if wide else config["head_dim"]
    every = 2 if found.architecture == "gemma2" else 6
    every = found.integer("attention.sliding_window_pattern", every)
    kinds = ["sliding_attention", "full_attention"]
    changed |= {
        "query_pre_attn_scalar": scalar,
        "sliding_window": found.integer("attention.sliding_window"),
        "layer_types": [kinds[(layer + 1) % every == 0] for layer in range(layers)],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
    if found.architecture == "gemma3":
        base = found.number("rope.freq_base_swa", 10000.0)
        return changed | {"rope_local_base_freq": base}
    for key, usual in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        changed[key] = found.number(key, usual)
    return changed
