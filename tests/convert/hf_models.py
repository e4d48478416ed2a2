"""Small random models of every published family, built and saved by Transformers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

VOCABULARY, LONGEST = 264, 96
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": LONGEST,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = dict(SIZES, **IDS, num_key_value_heads=2)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 3.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [2.0, 3.0, 5.0],
    "partial_rotary_factor": 0.75,
}
LATENT = {
    "num_key_value_heads": None,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
}
DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 32,
    "hidden_dim": 48,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": LONGEST,
}


def use_rope_scaling(config: dict[str, Any]) -> None:
    """Convert rotary positions to the format before Transformers 5."""
    new = config.pop("rope_parameters")
    config["rope_theta"] = new.pop("rope_theta")
    new["type"] = new.pop("rope_type")
    config["rope_scaling"] = new


def untie(model: Any) -> None:
    """Give the model a separate head, like T5 1.1."""
    import torch

    model.lm_head.weight = torch.nn.Parameter(model.shared.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


@dataclass(frozen=True)
class Case:
    """A model: its class and config in Transformers, and edits of its files."""

    architecture: str
    config: str
    fields: dict[str, Any]
    edit: Callable[[dict[str, Any]], None] | None = None
    change: Callable[[Any], None] | None = None
    std: float = 0.25
    hidden: bool = field(default=False)
    """Whether it has no head, so that hidden states are compared."""


def _decoder(name: str, /, **fields: Any) -> Case:
    return Case(f"{name}ForCausalLM", f"{name.replace('3For', '')}Config", GROUPED | fields)


CASES: dict[str, Case] = {
    "gpt2": Case(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "n_positions": LONGEST}
        | dict(IDS, vocab_size=VOCABULARY),
    ),
    "llama": _decoder(
        "Llama", head_dim=16, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3
    ),
    "llama-linear": Case(
        "LlamaForCausalLM",
        "LlamaConfig",
        GROUPED
        | {
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0},
        },
        edit=use_rope_scaling,
    ),
    "llama-yarn": _decoder("Llama", rope_parameters=YARN),
    "mistral": _decoder("Mistral", head_dim=16, sliding_window=7),
    "qwen2": _decoder(
        "Qwen2",
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=1,
        tie_word_embeddings=True,
    ),
    "qwen3": _decoder("Qwen3", head_dim=16, attention_bias=True),
    "smollm3": _decoder("SmolLM3", no_rope_layer_interval=2, attention_bias=True, mlp_bias=True),
    "olmo2": _decoder("Olmo2", attention_bias=True),
    "granite": _decoder(
        "Granite",
        attention_bias=True,
        mlp_bias=True,
        embedding_multiplier=6.0,
        logits_scaling=4.0,
        residual_multiplier=0.5,
        attention_multiplier=0.2,
    ),
    "internlm3": Case(
        "LlamaForCausalLM",
        "InternLM3Config",
        GROUPED
        | {
            "head_dim": 16,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 500.0},
        },
    ),
    "cohere": _decoder("Cohere", use_qk_norm=True, attention_bias=True, logit_scale=0.3),
    "cohere2": _decoder("Cohere2", sliding_window=7, sliding_window_pattern=2, logit_scale=0.3),
    "starcoder2": _decoder("Starcoder2", sliding_window=7),
    "mixtral": _decoder("Mixtral", head_dim=16, num_local_experts=4, sliding_window=7),
    "phimoe": _decoder(
        "Phimoe",
        num_local_experts=4,
        attention_bias=True,
        lm_head_bias=True,
        sliding_window=40,
        router_jitter_noise=0.3,
        original_max_position_embeddings=90,
        # Transformers 5 takes the short factors for longer texts too, unlike the published code.
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1000.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [2.0, 3.0, 5.0, 7.0],
            "short_mscale": 1.2,
            "long_mscale": 1.2,
            "original_max_position_embeddings": 90,
        },
    ),
    "qwen2-moe": _decoder(
        "Qwen2Moe",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        mlp_only_layers=[1],
        norm_topk_prob=True,
    ),
    "qwen3-moe": _decoder(
        "Qwen3Moe",
        head_dim=16,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=24,
        decoder_sparse_step=2,
        attention_bias=True,
    ),
    "qwen3-next": _decoder(
        "Qwen3Next",
        head_dim=16,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=6,
        linear_key_head_dim=10,
        linear_value_head_dim=8,
        linear_conv_kernel_dim=3,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        mlp_only_layers=[2],
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    ),
    "olmoe": _decoder("Olmoe", num_experts=6, num_experts_per_tok=3, attention_bias=True),
    "glm4-moe": _decoder(
        "Glm4Moe",
        head_dim=16,
        n_routed_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=24,
        n_shared_experts=2,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=1.5,
        use_qk_norm=True,
        attention_bias=True,
    ),
    "granitemoe": _decoder(
        "GraniteMoe",
        num_local_experts=4,
        embedding_multiplier=6.0,
        logits_scaling=4.0,
        residual_multiplier=0.5,
        attention_multiplier=0.2,
        attention_bias=True,
    ),
    "gpt-oss": _decoder(
        "GptOss",
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=7,
    ),
    "llama4": Case(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        GROUPED
        | {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "intermediate_size_mlp": 40,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "interleave_moe_layer_step": 2,
            "no_rope_layer_interval": 3,
            "attention_chunk_size": 7,
            "floor_scale": 5,
            "attn_scale": 0.5,
            "attention_bias": True,
            "rope_parameters": LLAMA3 | {"high_freq_factor": 1.0},
        },
    ),
    "llama4-few": Case(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        GROUPED
        | {
            "head_dim": 16,
            "intermediate_size_mlp": 40,
            "moe_layers": [0],
            "num_local_experts": 4,
            "no_rope_layers": [0, 1, 1],
            "attention_chunk_size": None,
            "attn_temperature_tuning": False,
            "use_qk_norm": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
    "gemma": _decoder("Gemma", head_dim=16, attention_bias=True),
    "gemma2": _decoder("Gemma2", head_dim=16, query_pre_attn_scalar=24, sliding_window=7),
    "gemma3": Case(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        GROUPED
        | {
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": 7,
            "sliding_window_pattern": 2,
            "final_logit_softcapping": 9.0,
            "rope_scaling": {"rope_type": "linear", "factor": 3.0},
        },
    ),
    "phi3": _decoder(
        "Phi3", original_max_position_embeddings=16, rope_parameters=LONGROPE, sliding_window=30
    ),
    "phi3-short": _decoder("Phi3", original_max_position_embeddings=90, rope_parameters=LONGROPE),
    "deepseek-v3": _decoder(
        "DeepseekV3",
        **LATENT,
        q_lora_rank=20,
        attention_bias=True,
        rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 0.7},
    ),
    "deepseek-v2": _decoder("DeepseekV2", **LATENT, q_lora_rank=None, mlp_bias=True),
    "deepseek-v3-moe": _decoder(
        "DeepseekV3",
        **LATENT | {"first_k_dense_replace": 1},
        q_lora_rank=20,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        moe_intermediate_size=24,
    ),
    "deepseek-v2-moe": _decoder(
        "DeepseekV2",
        **LATENT | {"first_k_dense_replace": 1},
        q_lora_rank=20,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        moe_intermediate_size=24,
        topk_method="group_limited_greedy",
        routed_scaling_factor=1.5,
        mlp_bias=True,
    ),
    "gpt-neox": Case("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES | IDS),
    "gpt-neox-serial": Case(
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        SIZES | IDS | {"use_parallel_residual": False, "attention_bias": False},
    ),
    "bert": Case("BertForMaskedLM", "BertConfig", SIZES | {"pad_token_id": 0}),
    "bert-pooler": Case("BertModel", "BertConfig", SIZES | {"pad_token_id": 0}, hidden=True),
    "roberta": Case("RobertaForMaskedLM", "RobertaConfig", SIZES | {"pad_token_id": 0}),
    "xlm-roberta": Case(
        "XLMRobertaForMaskedLM",
        "XLMRobertaConfig",
        SIZES | {"pad_token_id": 1, "type_vocab_size": 1, "tie_word_embeddings": False},
    ),
    "distilbert": Case("DistilBertForMaskedLM", "DistilBertConfig", DISTILBERT),
    "modernbert": Case(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        SIZES
        | IDS
        | {
            "cls_token_id": 1,
            "sep_token_id": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "classifier_bias": True,
            "local_attention": 6,
            "global_attn_every_n_layers": 2,
        },
    ),
    "t5": Case("T5ForConditionalGeneration", "T5Config", T5, std=0.15),
    "t5-v1.1": Case(
        "T5ForConditionalGeneration",
        "T5Config",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        change=untie,
        std=0.15,
    ),
    "mt5": Case("MT5ForConditionalGeneration", "MT5Config", T5, std=0.15),
}
ENCODER_DECODERS = ("t5", "t5-v1.1", "mt5")


def build(name: str, folder: Path) -> Any:
    """Build a model in evaluation mode, and save it with a tokenizer."""
    import torch
    import transformers

    case = CASES[name]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # more only get in each other's way
    config = getattr(transformers, case.config)(**case.fields)
    model = getattr(transformers, case.architecture)(config).eval()
    if case.change is not None:
        case.change(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, case.std)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    if case.edit is not None:
        values = json.loads((folder / "config.json").read_text())
        case.edit(values)
        (folder / "config.json").write_text(json.dumps(values))
    write_tokenizer(folder)
    return model


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of three special tokens and all bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL.values(), *alphabet])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
