"""The metadata of a GGUF file as the config.json that Transformers would have.

Keys are those of gguf-py's constants. A key that is not known here is refused, for it might change
the numbers.
"""

from collections.abc import Callable
from typing import Any

from llmjax.convert.gguf.file import GgufFile
from llmjax.convert.gguf.metadata import Metadata
from llmjax.convert.gguf.rope import read_rope_scaling
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
