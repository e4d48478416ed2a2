"""Metadata of mixtures of experts and latent attention in GGUF files, both ways."""

from typing import Any

from llmjax.convert.gguf.metadata import Metadata
from llmjax.model.config import ModelConfig

SOFTMAX, SIGMOID = 1, 2
"""expert_gating_func: llama.cpp's numbers of score functions."""
COUNT = {
    "llama": "num_local_experts",
    "granitemoe": "num_local_experts",
    "gpt-oss": "num_local_experts",
    "llama4": "num_local_experts",
    "deepseek2": "n_routed_experts",
    "glm4moe": "n_routed_experts",
}
"""Architecture -> the field of config.json with the number of experts; else num_experts."""
DENSE_FIRST = ("deepseek2", "glm4moe")
"""Architectures whose first layers may be dense, with one shared expert and scaled weights."""
OWN_WIDTH = (*DENSE_FIRST, "qwen2moe", "qwen3moe")
"""Architectures whose experts have another width than intermediate_size."""
LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"


def read_experts(metadata: Metadata) -> dict[str, Any]:
    """The fields of config.json about experts; {} if the model has none.

    Raises:
      UserError: a key is missing, out of range, or not what the architecture computes.
    """
    architecture = metadata.architecture
    if not metadata.get("expert_count", 0):
        return {}
    config: dict[str, Any] = {
        COUNT.get(architecture, "num_experts"): metadata.integer("expert_count"),
        "num_experts_per_tok": metadata.integer("expert_used_count"),
    }
    width = metadata.integer("expert_feed_forward_length", _width(metadata, "exps"))
    if architecture in OWN_WIDTH:
        config["moe_intermediate_size"] = width
    else:
        config["intermediate_size"] = width
    match architecture:
        case "qwen2moe":
            shared = "expert_shared_feed_forward_length"
            shared_width = metadata.integer(shared, _width(metadata, "shexp"))
            config |= {"shared_expert_intermediate_size": shared_width, "norm_topk_prob": False}
        case "qwen3moe" | "olmoe":
            config["norm_topk_prob"] = architecture == "qwen3moe"
        case "deepseek2" | "glm4moe":
            config |= _dense_first(metadata)
    return config


def _width(metadata: Metadata, kind: str) -> int | None:
    """The inner width of experts, from a tensor, since older files have no key of it."""
    stored = metadata.file.tensors
    names = (name for name in stored if name.endswith(f".ffn_gate_{kind}.weight"))
    return next((stored[name].shape[-2] for name in names), None)


def _dense_first(metadata: Metadata) -> dict[str, Any]:
    """The fields that DeepSeek and GLM share."""
    return {
        "first_k_dense_replace": metadata.get("leading_dense_block_count", 0),
        "n_shared_experts": metadata.integer("expert_shared_count"),
        "routed_scaling_factor": metadata.number("expert_weights_scale", 1.0),
        "norm_topk_prob": bool(metadata.get("expert_weights_norm", False)),
        "n_group": metadata.integer("expert_group_count", 1),
        "topk_group": metadata.integer("expert_group_used_count", 1),
    }


def read_latent(metadata: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of DeepSeek V2 or V3.

    Args:
      metadata: of a file of architecture deepseek2.
      config: sizes and rotary positions.

    Raises:
      UserError: a key is missing, out of range or contradicts another.
    """
    rotated = metadata.integer("rope.dimension_count")
    rank = metadata.integer("attention.kv_lora_rank")
    key, value = metadata.integer("attention.key_length"), metadata.get("attention.value_length")
    width = metadata.integer("attention.key_length_mla", key)
    value = metadata.integer("attention.value_length_mla", value)
    if width <= rotated:
        metadata.fail(f"rotates {rotated} of a head's {width} dimensions, which leaves no others")
    queries = metadata.get("attention.q_lora_rank", 0)
    latent = {
        "num_key_value_heads": config["num_attention_heads"],
        "kv_lora_rank": rank,
        "q_lora_rank": metadata.integer("attention.q_lora_rank") if queries else None,
        "qk_nope_head_dim": width - rotated,
        "qk_rope_head_dim": rotated,
        "v_head_dim": value,
    }
    if scaling := config.get("rope_scaling"):
        if scaling["rope_type"] != "yarn":
            metadata.fail(f"has rotary scaling {scaling['rope_type']}, which deepseek2 cannot")
        mscale = round(10 * metadata.number(LOG_MULTIPLIER), 6)
        latent["rope_scaling"] = scaling | {"mscale": mscale, "mscale_all_dim": mscale}
    experts = read_experts(metadata)
    if not experts:
        metadata.fail("has no experts, which no DeepSeek V2 or V3 lacks")
    if metadata.get("expert_gating_func", SOFTMAX) == SIGMOID:
        names = {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]}
        return latent | experts | names | {"rope_interleave": True}
    if metadata.get("expert_gating_func", SOFTMAX) != SOFTMAX or experts.pop("norm_topk_prob"):
        metadata.fail("weighs experts by another rule than DeepSeek V2 and V3")
    method = "greedy" if experts["n_group"] == 1 else "group_limited_greedy"
    return latent | experts | {"topk_method": method}


def expert_keys(architecture: str, shape: ModelConfig) -> dict[str, Any]:
    """The keys of a model's experts and latent attention, without the architecture's prefix."""
    keys: dict[str, Any] = {}
    if (moe := shape.moe) is not None:
        keys |= {"expert_count": moe.num_experts, "expert_used_count": moe.experts_per_token}
        if architecture in (*OWN_WIDTH, "gpt-oss", "llama4"):
            keys["expert_feed_forward_length"] = shape.expert_width
        if architecture == "qwen2moe":
            keys["expert_shared_feed_forward_length"] = moe.shared_width
        if architecture in DENSE_FIRST:
            keys |= {
                "expert_shared_count": moe.shared_width // shape.expert_width,
                "expert_weights_scale": float(moe.weight_scale),
                "expert_weights_norm": moe.normalize,
                "expert_gating_func": SIGMOID if moe.scores == "sigmoid" else SOFTMAX,
                "leading_dense_block_count": len(moe.dense_layers),
            }
        if moe.groups > 1:
            keys |= {
                "expert_group_count": moe.groups,
                "expert_group_used_count": moe.groups_per_token,
            }
    if (mla := shape.mla) is not None:
        keys |= {
            "attention.head_count_kv": 1,  # llama.cpp attends to the compressed vector
            "attention.key_length": mla.cache_width,
            "attention.value_length": mla.kv_rank,
            "attention.key_length_mla": mla.head_width,
            "attention.value_length_mla": mla.value_head_dim,
            "attention.kv_lora_rank": mla.kv_rank,
            "rope.dimension_count": mla.rope_head_dim,
        }
        if mla.query_rank:
            keys["attention.q_lora_rank"] = mla.query_rank
    return keys
