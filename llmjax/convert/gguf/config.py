"""Translate the metadata of a GGUF file to Transformers' config.json.

Keys are those of gguf-py's constants. Unknown keys are refused, since they might change the
model's outputs.
"""

from collections.abc import Callable
from typing import Any

from llmjax.convert.families.parts import found_parts
from llmjax.convert.gguf.expert_keys import SIGMOID, read_experts, read_latent
from llmjax.convert.gguf.file import GgufFile
from llmjax.convert.gguf.metadata import Metadata, read_rope_scaling
from llmjax.errors import UserError

NAMES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "smollm3": ("smollm3", "SmolLM3ForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "olmo2": ("olmo2", "Olmo2ForCausalLM"),
    "command-r": ("cohere", "CohereForCausalLM"),
    "cohere2": ("cohere2", "Cohere2ForCausalLM"),
    "granite": ("granite", "GraniteForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
    "starcoder2": ("starcoder2", "Starcoder2ForCausalLM"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "gptneox": ("gpt_neox", "GPTNeoXForCausalLM"),
    "qwen2moe": ("qwen2_moe", "Qwen2MoeForCausalLM"),
    "qwen3moe": ("qwen3_moe", "Qwen3MoeForCausalLM"),
    "olmoe": ("olmoe", "OlmoeForCausalLM"),
    "granitemoe": ("granitemoe", "GraniteMoeForCausalLM"),
    "glm4moe": ("glm4_moe", "Glm4MoeForCausalLM"),
    "gpt-oss": ("gpt_oss", "GptOssForCausalLM"),
    "llama4": ("llama4_text", "Llama4ForCausalLM"),
    "deepseek2": ("deepseek_v2", "DeepseekV2ForCausalLM"),
}
"""Architecture in GGUF -> Transformers' model_type and class. Files of llama with experts are
Mixtral, those of deepseek2 with sigmoid scores DeepSeek V3."""

WITHOUT_HEAD_DIM = (
    "granite",
    "granitemoe",
    "olmo2",
    "olmoe",
    "phi3",
    "qwen2",
    "qwen2moe",
    "smollm3",
)
"""Architectures whose config.json has no head_dim: it is hidden_size / heads."""
WITHOUT_BIAS_FIELD = ("phi3", "qwen2", "qwen2moe")
"""Architectures whose config.json has no attention_bias."""

WIDE_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, which scale scores by 1 / sqrt(hidden_size / heads) without a key that
says so."""


def config_of(file: GgufFile) -> dict[str, Any]:
    """The config.json of the model in a file.

    Raises:
      UserError: the architecture is not supported, or a key is missing, not supported or out of
        range.
    """
    metadata = Metadata(file)
    if metadata.architecture not in NAMES:
        raise UserError(
            file.path,
            f"is of architecture {metadata.architecture}{_missing(metadata)}",
            f"supported are {', '.join(sorted(NAMES))}",
        )
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise UserError(file.path, "is one part of several", "merge them first (llama-gguf-split)")
    _check_layers(metadata)
    model_type, name = NAMES[metadata.architecture]
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        metadata.fail("has no token_embd.weight")
    config = {"model_type": model_type, "architectures": [name], "vocab_size": table.shape[0]}
    config |= _special_tokens(file)
    specific: dict[str, Callable[[Metadata], dict[str, Any]]] = {
        "gpt2": _gpt2,
        "gptneox": _gpt_neox,
        "starcoder2": _starcoder2,
        "command-r": _cohere,
        "cohere2": _cohere,
        "deepseek2": _deepseek,
    }
    config |= specific.get(metadata.architecture, _llama_like)(metadata)
    config["tie_word_embeddings"] = "output.weight" not in file.tensors
    metadata.check_no_others()
    return config


def _missing(metadata: Metadata) -> str:
    """Which parts llmjax lacks, after a comma; "" if the keys are no sign of any."""
    prefix = f"{metadata.architecture}."
    found = metadata.file.metadata.items()
    keys = {key.removeprefix(prefix).replace(".", "_"): 1 for key, _ in found if prefix in key}
    parts = ", ".join(dict.fromkeys(found_parts(keys)))
    return f", with {parts}, which llmjax does not have" if parts else ""


def _check_layers(metadata: Metadata) -> None:
    """Refuse a block_count that differs from the file's tensors, before allocating per layer."""
    stated = metadata.integer("block_count")
    stored = {name.split(".")[1] for name in metadata.file.tensors if name.startswith("blk.")}
    if len(stored) != stated:
        metadata.fail(f"states {stated} layers and has the tensors of {len(stored)}")


def _special_tokens(file: GgufFile) -> dict[str, int]:
    ids = {name: file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    ids["pad"] = file.metadata.get("tokenizer.ggml.padding_token_id")
    return {f"{name}_token_id": value for name, value in ids.items() if isinstance(value, int)}


def _gpt2(metadata: Metadata) -> dict[str, Any]:
    width = metadata.integer("embedding_length")
    return {
        "n_positions": metadata.integer("context_length"),
        "n_embd": width,
        "n_layer": metadata.integer("block_count"),
        "n_head": metadata.integer("attention.head_count"),
        "n_inner": metadata.integer("feed_forward_length", 4 * width),
        "layer_norm_epsilon": metadata.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }


def _sizes(metadata: Metadata) -> dict[str, Any]:
    """The sizes of most decoders."""
    return {
        "max_position_embeddings": metadata.integer("context_length"),
        "hidden_size": metadata.integer("embedding_length"),
        "num_hidden_layers": decoder_layers(metadata),
        "num_attention_heads": metadata.integer("attention.head_count"),
        "intermediate_size": metadata.integer("feed_forward_length"),
    }


def decoder_layers(metadata: Metadata) -> int:
    """The number of layers without those, at the end, for tokens after next."""
    layers = metadata.integer("block_count")
    further = metadata.get("nextn_predict_layers", 0)
    if not isinstance(further, int) or not 0 <= further < layers:
        metadata.fail(f"states {further!r} layers for tokens after next of {layers}")
    return layers - further


def _grouped(metadata: Metadata) -> dict[str, Any]:
    """The sizes and rotation of decoders with grouped key heads."""
    sizes = _sizes(metadata)
    heads = sizes["num_attention_heads"]
    return sizes | {
        "num_key_value_heads": metadata.integer("attention.head_count_kv", heads),
        "rope_theta": metadata.number("rope.freq_base", 10000.0),
    }


def _gpt_neox(metadata: Metadata) -> dict[str, Any]:
    sizes = _sizes(metadata)
    head = metadata.head_width(sizes["hidden_size"], sizes["num_attention_heads"])
    return sizes | {
        "layer_norm_eps": metadata.number("attention.layer_norm_epsilon"),
        "rotary_pct": metadata.integer("rope.dimension_count") / head,
        "rotary_emb_base": metadata.number("rope.freq_base", 10000.0),
        "use_parallel_residual": bool(metadata.get("use_parallel_residual", True)),
        "hidden_act": "gelu",
        "attention_bias": True,
    }


def _layer_norm_decoder(metadata: Metadata) -> dict[str, Any]:
    """The fields that decoders with LayerNorm and rotated heads share."""
    for key in ("attention.key_length", "attention.value_length"):
        metadata.get(key)  # as wide as the model over its heads
    config = _grouped(metadata)
    head = metadata.head_width(config["hidden_size"], config["num_attention_heads"])
    if metadata.integer("rope.dimension_count", head) != head:
        metadata.fail(f"rotates a part of a head, which {metadata.architecture} cannot")
    return config | {"rope_scaling": read_rope_scaling(metadata, config, head)}


def _starcoder2(metadata: Metadata) -> dict[str, Any]:
    return _layer_norm_decoder(metadata) | {
        "norm_epsilon": metadata.number("attention.layer_norm_epsilon"),
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": "blk.0.attn_q.bias" in metadata.file.tensors,
        "sliding_window": metadata.get("attention.sliding_window"),
    }


def _cohere(metadata: Metadata) -> dict[str, Any]:
    config = _layer_norm_decoder(metadata) | {
        "layer_norm_eps": metadata.number("attention.layer_norm_epsilon"),
        "hidden_act": "silu",
        "logit_scale": metadata.number("logit_scale"),
        "attention_bias": "blk.0.attn_q.bias" in metadata.file.tensors,
    }
    if metadata.architecture == "cohere2":
        window = metadata.integer("attention.sliding_window")
        return config | {"sliding_window": window, "sliding_window_pattern": 4}
    return config | {"use_qk_norm": "blk.0.attn_q_norm.weight" in metadata.file.tensors}


def _deepseek(metadata: Metadata) -> dict[str, Any]:
    config = _sizes(metadata) | {
        "rope_theta": metadata.number("rope.freq_base", 10000.0),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
    }
    metadata.get("attention.head_count_kv")  # as many as queries, or the one that they share
    width = metadata.integer("rope.dimension_count")
    config["rope_scaling"] = read_rope_scaling(metadata, config, width)
    return config | read_latent(metadata, config)


def _llama_like(metadata: Metadata) -> dict[str, Any]:
    sizes, rotated = _grouped(metadata), metadata.get("rope.dimension_count")
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    head = metadata.integer("attention.key_length", width // heads or None)
    if metadata.get("attention.value_length", head) != head:
        metadata.fail("has values of another width than keys")
    config = sizes | {
        "head_dim": head,
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in metadata.file.tensors,
    }
    if rotated not in (None, head):
        if metadata.architecture not in ("phi3", "glm4moe"):
            metadata.fail(
                f"rotates {rotated} of {head} dimensions, which {metadata.architecture} cannot"
            )
        config["partial_rotary_factor"] = metadata.integer("rope.dimension_count") / head
    config["rope_scaling"] = read_rope_scaling(metadata, config, rotated or head)
    if metadata.architecture in WITHOUT_HEAD_DIM and config.pop("head_dim") * heads != width:
        metadata.fail(f"has heads of {head}, which {metadata.architecture} cannot")
    if metadata.architecture in WITHOUT_BIAS_FIELD:
        del config["attention_bias"]
    config |= read_experts(metadata)
    return config | _specific(metadata, config)


def _specific(metadata: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of only some architectures."""
    layers = config["num_hidden_layers"]
    match metadata.architecture:
        case "llama" if "num_local_experts" in config:
            return _mixtral(metadata, config)
        case "llama":
            return {"mlp_bias": "blk.0.ffn_up.bias" in metadata.file.tensors}
        case "granite":
            return {
                **_granite_factors(metadata),
                "mlp_bias": "blk.0.ffn_up.bias" in metadata.file.tensors,
            }
        case "granitemoe":
            return _granite_factors(metadata)
        case "smollm3":
            rotated = [int((layer + 1) % 4 != 0) for layer in range(layers)]
            return {"no_rope_layers": rotated, "use_sliding_window": False}
        case "qwen2" | "qwen3" | "qwen3moe":
            return {"use_sliding_window": False}
        case "qwen2moe":
            bias = "blk.0.attn_q.bias" in metadata.file.tensors
            return {"use_sliding_window": False, "qkv_bias": bias}
        case "olmoe":
            return {"clip_qkv": None}
        case "glm4moe":
            return _glm(metadata)
        case "llama4":
            return _llama4(metadata, layers)
        case "gpt-oss":
            return {"sliding_window": metadata.integer("attention.sliding_window")}
        case "phi3":
            window = metadata.get("attention.sliding_window")
            original = metadata.get("rope.scaling.original_context_length")
            original = original or config["max_position_embeddings"]
            return {
                "sliding_window": window or None,
                "original_max_position_embeddings": original,
            }
        case "gemma" | "gemma2" | "gemma3":
            return _gemma(metadata, config)
    return {}


def _granite_factors(metadata: Metadata) -> dict[str, Any]:
    return {
        "embedding_multiplier": metadata.number("embedding_scale", 1.0),
        "residual_multiplier": metadata.number("residual_scale", 1.0),
        "attention_multiplier": metadata.number("attention.scale", 1.0),
        "logits_scaling": metadata.number("logit_scale", 1.0),
    }


def _mixtral(metadata: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    if config.pop("attention_bias"):
        metadata.fail("has experts and biases of its attention, which Mixtral does not have")
    names = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    return names | {"sliding_window": None}


def _llama4(metadata: Metadata, layers: int) -> dict[str, Any]:
    """What llama.cpp computes whatever a file says: chunks of 8192, every fourth layer without
    them and without positions, or, with a window of 0, none of these; norms unless 128 experts."""
    experts = metadata.get("expert_count", 0)
    if not experts:
        metadata.fail("has no experts, which no Llama 4 lacks")
    every = 4 if metadata.get("attention.sliding_window") != 0 else layers + 1
    return {
        "intermediate_size_mlp": metadata.integer("feed_forward_length"),
        "interleave_moe_layer_step": metadata.integer("interleave_moe_layer_step"),
        "attention_chunk_size": 8192 if every == 4 else None,
        "no_rope_layers": [int((layer + 1) % every != 0) for layer in range(layers)],
        "attn_temperature_tuning": every == 4,
        "attn_scale": 0.1,
        "floor_scale": 8192,
        "use_qk_norm": experts != 128,
    }


def _glm(metadata: Metadata) -> dict[str, Any]:
    if metadata.get("expert_gating_func", SIGMOID) != SIGMOID:
        metadata.fail("weighs experts by another rule than GLM 4.5")
    return {"use_qk_norm": "blk.0.attn_q_norm.weight" in metadata.file.tensors}


def _gemma(metadata: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    del config["hidden_act"]
    fields: dict[str, Any] = {"hidden_activation": "gelu_pytorch_tanh"}
    if metadata.architecture == "gemma":
        return fields
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    wide = layers == WIDE_GEMMA[metadata.architecture]
    scalar = config["hidden_size"] // heads if wide else config["head_dim"]
    every = 2 if metadata.architecture == "gemma2" else 6
    every = metadata.integer("attention.sliding_window_pattern", every)
    types = ["sliding_attention", "full_attention"]
    fields |= {
        "query_pre_attn_scalar": scalar,
        "sliding_window": metadata.integer("attention.sliding_window"),
        "layer_types": [types[(layer + 1) % every == 0] for layer in range(layers)],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
    if metadata.architecture == "gemma3":
        base = metadata.number("rope.freq_base_swa", 10000.0)
        return fields | {"rope_local_base_freq": base}
    for key, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        fields[key] = metadata.number(key, default)
    return fields
